"""What a replica counts of its own load, for the decision how many replicas there are to be."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from millrace.autoscaling.readings import Reading


@dataclass
class ServiceLoad:
    """Counters of one replica since it started, which `millrace.autoscaling.Reading` explains.

    The service calls `arrived` when a request comes in and `left` when it is done with, answered, refused or gone,
    exactly once each; and runs what works on requests inside `work`. Any thread may.
    """

    clock: Callable[[], float] = time.perf_counter
    #: Processor seconds of the thread that serves; `as_metrics` is called there.
    cpu_clock: Callable[[], float] = time.thread_time
    _arrived: int = field(default=0, init=False)
    _left: int = field(default=0, init=False)
    _busy: float = field(default=0.0, init=False)
    _squares: float = field(default=0.0, init=False)
    _warm_up: float = field(default=0.0, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._made = self.clock()

    def arrived(self) -> None:
        """A request came in."""
        with self._lock:
            self._arrived += 1

    def left(self) -> None:
        """A request is done with."""
        with self._lock:
            self._left += 1

    @contextmanager
    def work(self, requests: int = 1) -> Iterator[None]:
        """What runs inside keeps this process from other requests; a batch is for several `requests` at once."""
        started = self.clock()
        try:
            yield
        finally:
            seconds = self.clock() - started
            with self._lock:
                self._busy += seconds
                self._squares += seconds**2 / max(1, requests)

    def warmed(self) -> None:
        """The first version is loaded; later calls change nothing."""
        if not self._warm_up:
            self._warm_up = self.clock() - self._made

    def as_metrics(self) -> dict[str, float]:
        """The counters, by the keys that the policy reads; call it in the thread that serves."""
        with self._lock:
            reading = Reading(
                time=0.0,
                arrivals_total=self._arrived,
                answered_total=self._left,
                busy_seconds_total=self._busy,
                busy_squares_total=self._squares,
                cpu_seconds_total=self.cpu_clock(),
                in_flight=max(0, self._arrived - self._left),
                warm_up_seconds=self._warm_up,
            )
        return reading.as_metrics()
