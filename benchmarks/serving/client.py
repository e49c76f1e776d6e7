"""Child process: asks one endpoint over kept-alive connections, in an open or a closed loop.

    {"kind": "open", "rate": 500, "seconds": 300, "seed": 1, "arrivals": "poisson", ...} | python -m ...client

An open loop sends each request at its time, whatever became of those before it, and measures from that time: a client
that waits for a slow answer before it asks again, or that starts its clock when it gets round to sending, leaves out
just the requests that would have waited ("coordinated omission": Gil Tene, How NOT to Measure Latency, 2015).

The plan is the first line of standard input; its end stops the load. Lines of JSON come back: progress, then figures.
With `timeline`, the figures have each answered request: when it was due (of the monotonic clock) and its seconds.
Nothing is tried again: a connection that the server closes under a request is a failed request.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle
from typing import Any

import httptools

from benchmarks.serving.dialects import Template
from benchmarks.serving.figures import latencies

_TIMEOUT_SECONDS = 30.0
_TELL_SECONDS = 0.25
_OK = 200

Done = Callable[[str | None], None]


def arrivals(rate: float, seconds: float, *, kind: str, seed: int) -> Iterator[float]:
    """Seconds after the start at which a request is to be sent: all `1 / rate` ("uniform"), or as independent callers
    come ("poisson": exponential gaps)."""
    if kind not in ("uniform", "poisson"):
        raise ValueError(f"arrivals are uniform or poisson, not {kind!r}")
    rng, at = random.Random(seed), 0.0
    for number in count(1):
        at = number / rate if kind == "uniform" else at + rng.expovariate(rate)
        if at > seconds:
            return
        yield at


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request on its way."""

    def __init__(self, released: Callable[[Connection], None]) -> None:
        self._released = released
        self._transport: asyncio.Transport | None = None
        self._done: Done | None = None
        self._timeout: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpResponseParser(self)

    def ask(self, request: bytes, done: Done) -> None:
        """Send; `done` is told None, or what went wrong."""
        assert self._transport is not None
        self._done = done
        self._timeout = asyncio.get_running_loop().call_later(_TIMEOUT_SECONDS, self._give_up)
        self._transport.write(request)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._finish("closed before the answer")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._finish("no HTTP")
            self.close()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        self._finish(None if status == _OK else f"status {status}")

    def _give_up(self) -> None:
        self._finish("no answer in time")
        self.close()

    def _finish(self, problem: str | None) -> None:
        done, self._done = self._done, None
        if self._timeout is not None:
            self._timeout.cancel()
        if done is None:
            return
        done(problem)
        if self.is_open:
            self._released(self)


@dataclass
class Load:
    """The connections, the clock, and what came of each request. Times are of the event loop's clock."""

    plan: dict[str, Any]
    seconds: list[float] = field(default_factory=list)
    #: When each of these was due.
    due: list[float] = field(default_factory=list)
    #: How long after its time each request left: what this process, not the server, added.
    late: list[float] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    connections: int = 0
    _idle: list[Connection] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def on_their_way(self) -> int:
        return self.sent - len(self.seconds) - self.problems.total()

    def stop(self) -> None:
        self._stopped.set()

    async def run_open(self) -> dict[str, Any]:
        """Requests at their times, over as many connections as it takes."""
        plan, loop = self.plan, asyncio.get_running_loop()
        times = arrivals(plan["rate"], plan["seconds"], kind=plan["arrivals"], seed=plan["seed"])
        bodies, start, over = self._bodies(), loop.time() + 0.05, loop.create_future()

        def schedule() -> None:
            at = None if self._stopped.is_set() else next(times, None)
            if at is None:
                over.set_result(None)
            else:
                # Behind its times it sends at once, but not before it has read what came.
                loop.call_at(start + at, send, start + at)

        def send(due: float) -> None:
            self._send(next(bodies), due)
            schedule()

        schedule()
        await over
        seconds = loop.time() - start
        while self.on_their_way:
            await asyncio.sleep(0.01)
        await self._close()
        return self._figures(seconds)

    async def run_closed(self) -> dict[str, Any]:
        """So many connections, each with always one request on its way."""
        loop = asyncio.get_running_loop()
        bodies, start = self._bodies(), loop.time()
        end = start + self.plan["seconds"]
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.plan["connections"]):
                tasks.create_task(self._ask_until(end, bodies))
        seconds = loop.time() - start
        await self._close()
        return self._figures(seconds)

    async def _ask_until(self, end: float, bodies: Iterator[bytes]) -> None:
        loop = asyncio.get_running_loop()
        while (began := loop.time()) < end and not self._stopped.is_set():
            answered: asyncio.Future[None] = loop.create_future()
            self._send(next(bodies), began, partial(answered.set_result, None))
            await answered

    def _send(self, request: bytes, due: float, then: Callable[[], None] = lambda: None) -> None:
        loop = asyncio.get_running_loop()
        self.sent += 1

        def done(problem: str | None) -> None:
            if problem is None:
                self.seconds.append(loop.time() - due)
                self.due.append(due)
            else:
                self.problems[problem] += 1
            then()

        self.late.append(loop.time() - due)
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.ask(request, done)
                return
        task = loop.create_task(self._connect(request, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, request: bytes, done: Done) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._idle.append), self.plan["host"], self.plan["port"]
                )
        except OSError as error:  # TimeoutError is one
            done(f"no connection ({type(error).__name__})")
            return
        self.connections += 1
        connection.ask(request, done)

    async def _close(self) -> None:
        """Nothing is on its way any more, so all connections are idle."""
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)

    def _bodies(self) -> Iterator[bytes]:
        templates = cycle([Template(head.encode(), self.plan["tail"].encode()) for head in self.plan["heads"]])
        for number in count(self.plan["first"]):
            yield next(templates).body(number)

    def _figures(self, seconds: float) -> dict[str, Any]:
        timeline = {"timeline": list(zip(self.due, self.seconds, strict=True))} if self.plan.get("timeline") else {}
        return {
            **timeline,
            "seconds": round(seconds, 3),
            "requests": self.sent,
            "failed": self.problems.total(),
            "problems": dict(self.problems),
            **latencies(self.seconds),
            "sent_late_p99_ms": latencies(self.late)["p99_ms"],
            "connections": self.connections,
        }


async def _run(plan: dict[str, Any]) -> None:
    loop, load = asyncio.get_running_loop(), Load(plan)

    def stop() -> None:
        # Standard input has nothing more to say but its end.
        loop.remove_reader(sys.stdin.fileno())
        load.stop()

    loop.add_reader(sys.stdin.fileno(), stop)

    async def tell() -> None:
        while True:
            _print({"answered": len(load.seconds), "failed": load.problems.total()})
            await asyncio.sleep(_TELL_SECONDS)

    telling = loop.create_task(tell())
    figures = await (load.run_open() if plan["kind"] == "open" else load.run_closed())
    telling.cancel()
    _print({"done": figures})


def _print(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


def main() -> None:
    asyncio.run(_run(json.loads(sys.stdin.readline())))


if __name__ == "__main__":
    main()
