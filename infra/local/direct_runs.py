"""Flow runs that start in the folder their deployment names, told where their flow is.

A flow run that is not told asks the server for its deployment and runs its pull steps, a third of what it takes a warm
one to begin. The worker has read the deployment by then. Pull steps that do more than name a folder are left to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.workers.process import ProcessJobConfiguration


class DirectRun(ProcessJobConfiguration):
    """The process worker's configuration of one flow run."""

    def prepare_for_flow_run(self, flow_run: Any, deployment: Any = None, *others: Any, **named: Any) -> None:
        super().prepare_for_flow_run(flow_run, deployment, *others, **named)
        if deployment is None or deployment.entrypoint is None:
            return
        folder = named_folder(deployment.pull_steps)
        if folder is not None and folder.is_dir():
            self.working_dir = folder
            self.env["PREFECT__FLOW_ENTRYPOINT"] = deployment.entrypoint


def named_folder(pull_steps: list[dict[str, Any]] | None) -> Path | None:
    """The folder that the steps change to, or None when they do anything else."""
    match pull_steps:
        case [{"prefect.deployments.steps.set_working_directory": {"directory": str(directory)} as step} as only] if (
            len(step) == 1 and len(only) == 1
        ):
            return Path(directory)
    return None
