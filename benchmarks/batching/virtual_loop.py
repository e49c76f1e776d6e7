"""An event loop whose time is simulated: it jumps to the next timer, and work moves it on by what it costs."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class VirtualClock:
    """Seconds since the simulation began."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        """The loop's thread is busy for so long."""
        self.now += seconds


class _Jumping(selectors.SelectSelector):
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        # Nothing ever comes from outside, so whoever waits waits for a timer.
        if timeout is None:
            raise RuntimeError("nothing is left that could happen")
        self._clock.work(max(timeout, 0.0))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop over a simulated clock: what runs on it runs in production."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Jumping(clock))
        self._virtual = clock
        # Timers fire a resolution early; the real clock's would be far coarser than what is simulated.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual.now
