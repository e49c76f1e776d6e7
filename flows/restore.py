"""Bring traffic and alias back to what the ledger says serves."""

from __future__ import annotations

from typing import Any

from prefect import flow

from ray_jobs.serve.deploy import Deployed
from tasks.rollout import serve_again
from tasks.run import open_run


@flow(name="restore", persist_result=False)
def restore(pipeline: str) -> dict[str, Any]:
    """Let the version serve that the ledger names: after Ray was restarted, or when something else answers.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
    """
    deployed = bring_back(pipeline)
    return {"pipeline": pipeline, "version": None if deployed is None else deployed.version}


def bring_back(pipeline: str) -> Deployed | None:
    """The same without a flow run, for `millrace up`."""
    with open_run("restore", pipeline) as run:
        return serve_again(run)
