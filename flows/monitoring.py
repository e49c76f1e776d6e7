"""Check the newest window of answered requests; a bad one may open an incident, which is announced."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow

from tasks.approval import accepted_thresholds
from tasks.checks import check_window, window_to_check
from tasks.incidents import announce_incidents
from tasks.run import open_run


@flow(name="monitoring", persist_result=False)
def monitoring(pipeline: str, as_of: datetime | None = None) -> dict[str, Any]:
    """Compare the newest whole window with the data the serving version was trained on, and judge its quality.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
        as_of: Check the newest window that had ended by then; leave empty for now.
    """
    with open_run("monitoring", pipeline, as_of) as opened:
        run = accepted_thresholds(opened)
        checked = check_window(run, window_to_check(run))
        announce_incidents(run)
        return checked
