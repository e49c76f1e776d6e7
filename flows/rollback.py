"""Let the version that served before serve again."""

from __future__ import annotations

from typing import Any

from prefect import flow

from millrace.ledger import SYSTEM
from tasks.rollout import roll_back
from tasks.run import open_run
from tasks.slots import holding


@flow(name="rollback", persist_result=False)
def rollback(pipeline: str, to_version: str | None = None, requested_by: str = SYSTEM) -> dict[str, Any]:
    """Move all traffic back, without a restart and without a dropped request.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
        to_version: The version to serve; leave empty for the one that served before.
        requested_by: Who asks for it, for the record.
    """
    with open_run("rollback", pipeline) as opened, holding(opened, "serving") as run:
        deployed = roll_back(run, to_version, requested_by)
    return {"pipeline": pipeline, "version": deployed.version, "seconds": deployed.seconds, "url": deployed.url}
