"""Runs inside `ray start` (RAY_START_HOOK), after its options are read and before it starts anything."""

from __future__ import annotations

import os
from typing import Any


def adjust(ray_params: Any, head: bool) -> None:
    """Leave out what a laptop does not need and `ray start` has no option for."""
    if not head:
        return
    # Ray Client's server binds port 10001 with SO_REUSEPORT: two stacks would share it without a word.
    ray_params.ray_client_server_port = None
    # The autoscaler; one machine has nothing to scale.
    ray_params.no_monitor = True
    # `ray start` must not see it (it would look for a cluster to join); the processes it starts must, or Ray's
    # helper actors look for a cluster in /tmp/ray and find somebody else's.
    os.environ["RAY_ADDRESS"] = f"127.0.0.1:{os.environ['MILLRACE_RAY_PORT']}"
