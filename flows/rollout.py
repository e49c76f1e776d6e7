"""Give a new version traffic step by step: let it serve when every step is sound, else take it off."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.canary import conclude, conducting, give_share, watch_step
from tasks.run import open_run


@flow(name="rollout", persist_result=False)
def rollout(pipeline: str, version: str | None = None) -> dict[str, Any]:
    """Move traffic to a version that a training found better, in the spec's steps, each judged against the champion.

    Killed anywhere and started again, it goes on where it was; meanwhile the traffic stays as it is. So it does when it
    is cancelled: `millrace rollout NAME --resume` goes on, `--stop` takes the version off.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
        version: The version whose rollout has begun; leave empty for the one that began last.
    """
    with open_run("rollout", pipeline) as run, conducting(run, version) as conductor:
        for number in conductor.steps:
            give_share(run, conductor, number)
            decision = watch_step(run, conductor, number)
            if decision.move != "advance":
                break
        return conclude(run, conductor, decision)
