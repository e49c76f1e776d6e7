"""Batching under an arrival pattern: ours, and a fixed size and wait, on one simulated event loop each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.batching.arrivals import Times
from benchmarks.batching.virtual_loop import VirtualClock, VirtualLoop
from millrace.errors import OverloadedError
from ray_jobs.serve.batching import Batch, Batcher

_ROW: Batch = {"numeric": np.zeros((1, 1), np.float32), "categorical": np.zeros((1, 0), np.int64)}


@dataclass(frozen=True)
class Model:
    """What a batch costs, in seconds: a fixed part and one for each row; and what any request costs besides."""

    fixed: float
    each: float
    request: float

    def seconds(self, rows: int) -> float:
        return self.fixed + self.each * rows

    def most_rate(self, target: float) -> float:
        """Requests a second at the most, when two batches have to fit into the target."""
        rows = max(1, int((target / 2 - self.fixed) / self.each))
        return rows / (self.seconds(rows) + rows * self.request)


@dataclass(frozen=True)
class Goodput:
    """What came of the requests; `latencies` of those that were answered, in seconds."""

    asked: int
    in_time: int
    refused: int
    latencies: NDArray[np.float64]
    seconds: float

    @property
    def rate(self) -> float:
        """Answers in time a second."""
        return self.in_time / self.seconds

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.latencies, share)) if len(self.latencies) else float("nan")


Answer = Callable[[float], Awaitable[object]]


def play(times: Times, target: float, build: Callable[[VirtualClock], Answer], request_seconds: float) -> Goodput:
    """Send a one-row request at each of `times`; `build` makes what answers it, given when it arrived."""
    clock = VirtualClock()
    loop = VirtualLoop(clock)
    latencies: list[float] = []
    refused = 0

    async def ask(answer: Answer, arrived: float) -> None:
        nonlocal refused
        clock.work(request_seconds)
        try:
            await answer(arrived)
        except OverloadedError:
            refused += 1
        else:
            latencies.append(clock() - arrived)

    async def run() -> None:
        answer = build(clock)
        async with asyncio.TaskGroup() as tasks:
            for moment in times.tolist():
                if (pause := moment - clock()) > 0:
                    await asyncio.sleep(pause)
                tasks.create_task(ask(answer, moment))

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
    took = np.asarray(latencies)
    return Goodput(len(times), int((took <= target).sum()), refused, took, max(clock(), float(times[-1])))


def ours(model: Model, target: float) -> Callable[[VirtualClock], Answer]:
    """The batcher that serves."""

    def build(clock: VirtualClock) -> Answer:
        def execute(batch: Batch) -> NDArray[np.float32]:
            rows = len(batch["numeric"])
            clock.work(model.seconds(rows))
            return np.zeros(rows, np.float32)

        batcher = Batcher(execute, target, clock=clock)
        for rows in (1, 2, 16, 256):  # as a version is warmed when it is loaded
            batcher.cost.observe(rows, model.seconds(rows))
        return lambda arrived: batcher.answer(_ROW, deadline=batcher.deadline(arrived))

    return build


def fixed(model: Model, most_rows: int, wait: float) -> Callable[[VirtualClock], Answer]:
    """What Ray Serve's `@serve.batch(max_batch_size, batch_wait_timeout_s)` and others do: a full batch or a wait."""

    def build(clock: VirtualClock) -> Answer:
        waiting: list[asyncio.Future[None]] = []
        timer: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()

        def flush() -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
                timer = None
            taken = waiting[:most_rows]
            del waiting[:most_rows]
            if not taken:
                return
            clock.work(model.seconds(len(taken)))
            for future in taken:
                future.set_result(None)
            if len(waiting) >= most_rows:
                loop.call_soon(flush)
            elif waiting:
                timer = loop.call_later(wait, flush)

        async def answer(arrived: float) -> None:
            nonlocal timer
            future = loop.create_future()
            waiting.append(future)
            if len(waiting) == most_rows:
                loop.call_soon(flush)
            elif timer is None:
                timer = loop.call_later(wait, flush)
            await future

        return answer

    return build
