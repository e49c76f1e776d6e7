"""What a replica counts of its own load, for the decision how many replicas there are to be."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from types import coroutine
from typing import Any

from millrace.autoscaling.readings import Reading
from ray_jobs.serve.asgi import Receive, Scope, Send

#: The header with which the ingress tells a replica how many requests come in a second; `haproxy_config` sets it.
INGRESS_RATE = b"x-ingress-rate"


@dataclass
class ServiceLoad:
    """Counters of one replica since it started, which `millrace.autoscaling.Reading` explains.

    `Counted` counts requests and what the loop's thread does for each. Whatever works on requests elsewhere, in another
    task or thread, does so inside `work`. Any thread may call.

    Who waits at the ingress has not come here, and who is refused there never does. So while some wait, the ingress
    says with each request how many come in a second, and this one's share of those counts as arrived.
    """

    clock: Callable[[], float] = time.perf_counter
    #: Processor seconds of the thread that serves; `as_metrics` is called there.
    cpu_clock: Callable[[], float] = time.thread_time
    #: How many replicas share what comes.
    replicas: int = 1
    _arrived: int = field(default=0, init=False)
    _left: int = field(default=0, init=False)
    _busy: float = field(default=0.0, init=False)
    _squares: float = field(default=0.0, init=False)
    _warm_up: float = field(default=0.0, init=False)
    #: Requests a second at the ingress when some waited there, since the last look; those that were counted without
    #: having come, and of these the ones that may still wait.
    _offered: float = field(default=0.0, init=False)
    _elsewhere: float = field(default=0.0, init=False)
    _awaited: float = field(default=0.0, init=False)
    _looked: tuple[float, int] = field(default=(0.0, 0), init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._made = self.clock()
        self._looked = (self._made, 0)

    def arrived(self, offered: float = 0.0) -> None:
        """A request came in, while so many came to the ingress in a second; 0: nobody waits there."""
        with self._lock:
            self._arrived += 1
            if offered:
                self._offered = offered

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
            self.worked(self.clock() - started, requests)

    def worked(self, seconds: float, requests: int = 1) -> None:
        """So long was worked on `requests`."""
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
            self._count_elsewhere()
            reading = Reading(
                time=0.0,
                arrivals_total=self._arrived + self._elsewhere,
                answered_total=self._left,
                busy_seconds_total=self._busy,
                busy_squares_total=self._squares,
                cpu_seconds_total=self.cpu_clock(),
                in_flight=max(0, self._arrived - self._left),
                warm_up_seconds=self._warm_up,
            )
        return reading.as_metrics()

    def _count_elsewhere(self) -> None:
        """Count who came to the ingress and not here; who was counted so and comes now is not counted again."""
        now, (looked, arrived) = self.clock(), self._looked
        if self._offered:
            absent = self._offered / self.replicas * (now - looked) - (self._arrived - arrived)
            counted = max(-self._awaited, absent)
            self._awaited += counted
            self._elsewhere += counted
        else:
            self._awaited = 0.0
        self._offered, self._looked = 0.0, (now, self._arrived)


@dataclass(frozen=True)
class Counted:
    """An ASGI application whose requests and their work are counted.

    A request's work is the time in which its coroutine runs. While it waits (for its body, for a batch) the loop is
    free for others, and that counts for nobody.
    """

    app: Callable[[Scope, Receive, Send], Awaitable[None]]
    load: ServiceLoad

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.load.arrived(_offered(scope["headers"]))
        try:
            await _timed(self.app(scope, receive, send), self.load)
        finally:
            self.load.left()


def _offered(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Requests a second at the ingress, where it says so."""
    for name, value in headers:
        if name == INGRESS_RATE:
            return float(value) if value.isdigit() else 0.0
    return 0.0


@coroutine
def _timed(awaited: Awaitable[None], load: ServiceLoad) -> Generator[Any, Any, None]:
    """Await it; its steps, without what is between them, are work on one request."""
    steps: Any = awaited.__await__()
    step: Callable[[], Any] = partial(steps.send, None)
    seconds = 0.0
    try:
        while True:
            began = load.clock()
            try:
                waits_for = step()
            except StopIteration:
                return
            finally:
                seconds += load.clock() - began
            try:
                step = partial(steps.send, (yield waits_for))
            except BaseException as error:  # noqa: BLE001 - a cancellation too is for what is awaited
                step = partial(steps.throw, error)
    finally:
        load.worked(seconds)
