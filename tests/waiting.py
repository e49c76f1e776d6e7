"""Waiting for a condition: the only pause of the suite, between two questions and never instead of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = 90.0, every: float = 0.1) -> T:
    """What `condition` says once that is true.

    Raises:
        TimeoutError: it did not become true within `seconds`.
    """
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:.0f} s")
        pause.wait(every)
    return found
