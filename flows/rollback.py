"""Let the version that served before serve again."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.rollout import roll_back
from tasks.run import pipeline_slot, start_run


@flow(name="rollback", persist_result=False)
def rollback(pipeline: str, to_version: str | None = None) -> dict[str, Any]:
    """Move all traffic back, without a restart and without a dropped request.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
        to_version: The version to serve; leave empty for the one that served before.
    """
    run = start_run(pipeline)
    with pipeline_slot(run):
        deployed = roll_back(run, to_version)
    return {"pipeline": pipeline, "version": deployed.version, "seconds": deployed.seconds, "url": deployed.url}
