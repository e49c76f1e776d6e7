"""Replay a window of the past through the live endpoint: requests in event-time order, outcomes as they arrive."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow

from millrace.window import Window
from tasks.replay import replay_window
from tasks.run import open_run


@flow(name="replay", persist_result=False)
def replay(pipeline: str, start: datetime, end: datetime, rows_per_request: int = 64) -> dict[str, Any]:
    """Ask the live endpoint for every row of [start, end), and send each outcome once it was known.

    Args:
        pipeline: Name of the pipeline, a folder with a pipeline.yaml.
        start: Begin of the window, in event time.
        end: End of the window, in event time; not included.
        rows_per_request: Rows in one request.
    """
    with open_run("replay", pipeline) as run:
        return replay_window(run, Window.asked(start, end), rows_per_request)
