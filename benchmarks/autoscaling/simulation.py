"""A deployment behind a proxy, request by request: replicas that take time to come up, each with one queue.

A request goes to the replica with the fewest connections and stays there. A replica lets `SEATS` requests in at once
(`max_ongoing_requests`); the others wait where no counter sees them, as behind HAProxy. It answers one after the other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from millrace.autoscaling import Reading

Floats = NDArray[np.float64]

SEATS = 64
TICK_SECONDS = 0.5


@dataclass
class Replica:
    """One process. Its requests in order: when each was let in, when it was answered, how long it took."""

    name: str
    started: float
    ready: float
    let_in: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    next_report: float = 0.0
    gone: int = 0  # requests that the proxy has an answer of
    # Let in, answered, and the seconds of these and their squares, as far as readings have come.
    _counted: list[float] = field(default_factory=lambda: [0, 0, 0.0, 0.0])

    @property
    def _warm_up(self) -> float:
        return self.ready - self.started

    def connections(self, now: float) -> int:
        """Requests that wait or are answered at `now`, which never goes back."""
        done = self.done
        while self.gone < len(done) and done[self.gone] <= now:
            self.gone += 1
        return len(done) - self.gone

    def take(self, now: float, seconds: float) -> float:
        """A request that comes now and takes so long; when it is answered."""
        begins = max(now, self.done[-1]) if self.done else now
        self.let_in.append(max(now, self.done[-SEATS]) if len(self.done) >= SEATS else now)
        self.done.append(begins + seconds)
        self.took.append(seconds)
        return begins + seconds

    def reading(self, now: float) -> Reading:
        """Its counters at `now`, which never goes back."""
        counted = self._counted
        while counted[0] < len(self.let_in) and self.let_in[int(counted[0])] <= now:
            counted[0] += 1
        while counted[1] < len(self.done) and self.done[int(counted[1])] <= now:
            seconds = self.took[int(counted[1])]
            counted[1] += 1
            counted[2] += seconds
            counted[3] += seconds**2
        let_in, done, busy, squares = counted
        return Reading(now, let_in, done, busy, squares, in_flight=let_in - done, warm_up_seconds=self._warm_up)


@dataclass(frozen=True)
class View:
    """What a policy is shown: the replicas that answer, how many there are to be, and the time."""

    now: float
    running: Sequence[Replica]
    wanted: int
    fewest: int
    most: int


class Policy(Protocol):
    """Decides at each tick. It sees a replica's counters by its `reading`, as often as its reports would tell them."""

    def __call__(self, view: View) -> int: ...


@dataclass(frozen=True)
class Outcome:
    """Latencies in order of arrival (seconds), and what it took."""

    latencies: Floats
    replica_seconds: float
    changes: int
    most_replicas: int
    wanted: list[int]


@dataclass
class _Fleet:
    warm_up: Callable[[], float]
    alive: list[Replica] = field(default_factory=list)
    seconds: float = 0.0
    made: int = 0

    def start(self, now: float, warm_up: float) -> None:
        self.made += 1
        ready = now + warm_up
        self.alive.append(Replica(f"r{self.made}", now, ready, next_report=ready))

    def resize(self, now: float, wanted: int) -> None:
        while len(self.alive) < wanted:
            self.start(now, self.warm_up())
        while len(self.alive) > wanted:
            self._stop(self.alive.pop(), now)

    def _stop(self, replica: Replica, now: float) -> None:
        # It answers what it has and takes nothing more.
        end = max(now, replica.done[-1] if replica.done else now)
        self.seconds += end - replica.started

    def close(self, now: float) -> None:
        while self.alive:
            self._stop(self.alive.pop(), now)


def simulate(
    arrivals: Floats,
    services: Floats,
    policy: Policy,
    *,
    warm_up: Callable[[], float],
    first: int,
    fewest: int = 1,
    most: int = 40,
) -> Outcome:
    """Play `arrivals` (seconds from 0, in order) with their `services` (seconds), beginning with `first` replicas."""
    fleet = _Fleet(warm_up)
    for _ in range(first):
        fleet.start(0.0, 0.0)
    latencies = np.empty(len(arrivals))
    wanted, changes, place = first, 0, 0
    history: list[int] = []
    moments, times = arrivals.tolist(), services.tolist()
    for tick in range(1, math.ceil(moments[-1] / TICK_SECONDS) + 2):
        now = tick * TICK_SECONDS
        while place < len(moments) and moments[place] < now:
            at = moments[place]
            ready = [replica for replica in fleet.alive if replica.ready <= at]
            chosen = min(ready, key=lambda replica: replica.connections(at))
            latencies[place] = chosen.take(at, times[place]) - at
            place += 1
        running = [replica for replica in fleet.alive if replica.ready <= now]
        decided = policy(View(now, running, wanted, fewest, most))
        if decided != wanted:
            changes += 1
            wanted = decided
            fleet.resize(now, wanted)
        history.append(wanted)
    fleet.close(now)
    return Outcome(latencies, fleet.seconds, changes, max([first, *history]), history)


#: Points that a replica's report may hold.
MOST_POINTS = 40


@dataclass
class Reports:
    """What the controller has of each replica: the readings it recorded each `record` seconds, sent each `send`."""

    record: float
    send: float
    look_back: float
    _points: dict[str, deque[Reading]] = field(default_factory=dict)
    _sent: dict[str, tuple[float, list[Reading]]] = field(default_factory=dict)

    def at(self, view: View) -> dict[str, list[Reading]]:
        """By each running replica, its newest report; called at each tick."""
        for replica in view.running:
            points = self._points.setdefault(replica.name, deque(maxlen=MOST_POINTS))
            while replica.next_report <= view.now:
                points.append(replica.reading(replica.next_report))
                replica.next_report += self.record
            due, _ = self._sent.get(replica.name, (replica.ready + self.send, []))
            if view.now >= due:
                kept = [reading for reading in points if reading.time >= view.now - self.look_back]
                self._sent[replica.name] = (due + self.send, kept)
            elif replica.name not in self._sent:
                self._sent[replica.name] = (due, [])
        return {replica.name: self._sent[replica.name][1] for replica in view.running}
