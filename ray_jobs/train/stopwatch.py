"""What each second of a worker is spent on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["start", "compute", "data_wait", "checkpoint", "idle"]
PHASES: tuple[Phase, ...] = ("start", "compute", "data_wait", "checkpoint", "idle")

#: So many of the newest checkpoints' marks are kept: a run goes on from one of them.
_MARKS = 8
_RECENT_STEPS = 101


@dataclass(frozen=True)
class Reading:
    """Seconds by phase since the stopwatch was started, which phase it is in since when, and for which step.

    `marks` are the seconds by phase at which the state of a step was taken for a checkpoint. `step_seconds` is the
    median of recent steps, 0 before the first.
    """

    seconds: dict[str, float]
    phase: Phase
    phase_seconds: float
    step: int
    step_seconds: float
    marks: dict[int, dict[str, float]] = field(default_factory=dict)


class Stopwatch:
    """Always in one phase, so its readings sum to the time since it was made. Read from any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._phase: Phase = "idle"
        self._since = now()
        self._step = 0
        self._marks: dict[int, dict[str, float]] = {}
        self._steps: list[float] = []
        #: The step after which the training went on; None before it did.
        self.resumed_step: int | None = None
        #: Set when there is something that should not wait for the next beat.
        self.news = threading.Event()

    @contextmanager
    def phase(self, name: Phase, step: int | None = None) -> Iterator[None]:
        """The block is `name`, and with `step` that step; after it comes what was before."""
        before, began = self._phase, self._enter(name, step)
        try:
            yield
        finally:
            ended = self._enter(before, None)
            if name == "compute" and step is not None:
                is_first = not self._steps
                self._steps = [*self._steps[-_RECENT_STEPS + 1 :], ended - began]
                if is_first:
                    self.news.set()

    def resumed(self, step: int) -> None:
        """The training goes on after `step`; 0: it begins."""
        self.resumed_step = step
        self.news.set()

    def mark(self, step: int) -> None:
        """The state after `step` is taken for a checkpoint now."""
        reading = self.read()
        with self._lock:
            self._marks = dict(list(self._marks.items())[-_MARKS + 1 :]) | {step: reading.seconds}

    def read(self) -> Reading:
        with self._lock:
            now = self._now()
            seconds = dict(self._seconds)
            seconds[self._phase] += now - self._since
            steps = sorted(self._steps)
            median = steps[len(steps) // 2] if steps else 0.0
            return Reading(seconds, self._phase, now - self._since, self._step, median, dict(self._marks))

    def _enter(self, phase: Phase, step: int | None) -> float:
        with self._lock:
            now = self._now()
            self._seconds[self._phase] += now - self._since
            self._phase, self._since = phase, now
            if step is not None:
                self._step = step
            return now
