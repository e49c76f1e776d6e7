"""Customers beside each other at one replica, on a simulated event loop: its door, its places, its batcher."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.batching.arrivals import steady
from benchmarks.batching.simulation import Model
from benchmarks.batching.virtual_loop import VirtualClock, VirtualLoop
from millrace.errors import OverloadedError, TooManyRequestsError
from millrace.keys import KeyFile
from millrace.limits import Limit
from ray_jobs.serve.batching import Batch, Batcher
from ray_jobs.serve.door import Door
from ray_jobs.serve.places import ROOM, Places

_ROW: Batch = {"numeric": np.zeros((1, 1), np.float32), "categorical": np.zeros((1, 0), np.int64)}

#: As measured of `flight_delays`: a batch costs 75 us and 2 us a row, and a request 90 us for HTTP, parsing and its log
#: line. One that is refused before its body is read costs less.
SMALL = Model(fixed=75e-6, each=2e-6, request=90e-6)
REFUSED_SECONDS = 40e-6
MOST = 64


@dataclass(frozen=True)
class Caller:
    """A customer that sends one-row requests at `rate` a second, at random moments; with a limit of its own or none."""

    rate: float
    limit: Limit | None = None


@dataclass
class Came:
    """What came of a customer's requests. Seconds are from when each was due to its answer."""

    asked: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """The share of its requests that were answered."""
        return len(self.latencies) / self.asked

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.latencies, share))


def play(
    callers: Mapping[str, Caller],
    folder: Path,
    *,
    seconds: float,
    target: float | None = None,
    model: Model = SMALL,
    most: int = MOST,
    takes_turns: bool = True,
) -> dict[str, Came]:
    """Let all of them ask for so long; `folder` is for their keys. The same at each call.

    `most` requests are worked on at once. Where customers do not take turns for these places, it is as if Ray Serve
    let so many in: the others wait in the order in which they came, before the door and unknown to it.
    """
    keys = KeyFile(folder / "keys.json")
    headers = {name: [(b"authorization", b"Bearer " + keys.create(name)[1].encode())] for name in callers}
    for name, caller in callers.items():
        keys.limit(name, caller.limit)
    clock = VirtualClock()
    door = Door(keys, True, frozenset(), clock=clock)
    batcher, places = _batcher(model, target, clock), Places(most, clock)
    found = {name: Came() for name in callers}

    async def ask(name: str, due: float, let_in: asyncio.Semaphore) -> None:
        came = found[name]
        came.asked += 1
        async with let_in:
            deadline = batcher.deadline(clock())
            try:
                customer = door.check(headers[name])
                door.admit(customer)
                await places.enter(customer, deadline)
                try:
                    batcher.require_time(customer, deadline)
                    clock.work(model.request)
                    await batcher.answer(_ROW, customer=customer, deadline=deadline)
                finally:
                    places.leave()
            except (TooManyRequestsError, OverloadedError):
                clock.work(REFUSED_SECONDS)
                came.refused += 1
            else:
                came.latencies.append(clock() - due)

    async def run() -> None:
        let_in = asyncio.Semaphore(most * ROOM if takes_turns else most)
        async with asyncio.TaskGroup() as tasks:
            for due, name in _schedule(callers, seconds):
                if (pause := due - clock()) > 0:
                    await asyncio.sleep(pause)
                tasks.create_task(ask(name, due, let_in))

    loop = VirtualLoop(clock)
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    return found


def _schedule(callers: Mapping[str, Caller], seconds: float) -> list[tuple[float, str]]:
    """A customer's moments do not depend on who else asks."""
    times = {name: steady(caller.rate, seconds, sum(name.encode())) for name, caller in callers.items()}
    return sorted((moment, name) for name, moments in times.items() for moment in moments.tolist())


def _batcher(model: Model, target: float | None, clock: VirtualClock) -> Batcher:
    def execute(batch: Batch) -> NDArray[np.float32]:
        rows = len(batch["numeric"])
        clock.work(model.seconds(rows))
        return np.zeros(rows, np.float32)

    batcher = Batcher(execute, target, clock=clock)
    for rows in (1, 2, 16, 256):  # as a version is warmed when it is loaded
        batcher.cost.observe(rows, model.seconds(rows))
    return batcher
