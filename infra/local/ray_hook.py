"""Runs inside `ray start` (RAY_START_HOOK), after its options are read and before it starts anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

#: The dashboard's modules in the pinned release (a test compares), without UsageStatsHead. That one asks the metadata
#: addresses of three clouds where it runs, and where usage statistics are off it reports that they are.
DASHBOARD_MODULES = (
    "DataHead", "EventHead", "JobHead", "MetricsHead", "NodeHead", "PlatformEventsHead", "ReportHead", "ServeHead",
    "StateHead", "TaskEventsHead", "TrainHead",
)  # fmt: skip


def adjust(ray_params: Any, head: bool) -> None:
    """Leave out what a laptop does not need and `ray start` has no option for."""
    if not head:
        return
    # Ray Client's server binds port 10001 with SO_REUSEPORT: two stacks would share it without a word.
    ray_params.ray_client_server_port = None
    # The autoscaler; one machine has nothing to scale.
    ray_params.no_monitor = True
    from ray._private import services

    services.start_ray_process = quiet(services.start_ray_process)
    # `ray start` must not see it (it would look for a cluster to join); the processes it starts must, or Ray's
    # own actors look for a cluster in /tmp/ray and find somebody else's.
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{os.environ['MILLRACE_RAY_PORT']}"


def quiet(start: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's `start_ray_process`, with the dashboard's modules named."""

    def start_quiet(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:
        if process_type == "dashboard":
            command = [*command, f"--modules-to-load={','.join(DASHBOARD_MODULES)}"]
        return start(command, process_type, *args, **kwargs)

    return start_quiet
