"""Our own client: when requests are due, and that a wait counts from then."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.client import Load, arrivals

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
HEAD = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n"


@given(st.floats(1, 2000), st.floats(0.1, 2), st.integers(0, 100), st.sampled_from(["uniform", "poisson"]))
def test_arrivals_are_in_order_and_end_in_time(rate: float, seconds: float, seed: int, kind: str) -> None:
    found = list(arrivals(rate, seconds, kind=kind, seed=seed))
    assert found == sorted(found)
    assert all(0 < at <= seconds for at in found)
    assert found == list(arrivals(rate, seconds, kind=kind, seed=seed))


def test_arrivals_come_at_the_rate() -> None:
    assert len(list(arrivals(500, 10, kind="uniform", seed=0))) == 5000
    poisson = list(arrivals(500, 10, kind="poisson", seed=0))
    # Within five standard deviations of a Poisson count.
    assert abs(len(poisson) - 5000) < 5 * 5000**0.5
    gaps = {round(later - at, 6) for at, later in itertools.pairwise(poisson)}
    assert len(gaps) > 1000
    with pytest.raises(ValueError, match="uniform or poisson"):
        next(arrivals(1, 1, kind="bursts", seed=0))


class Clients:
    """What a server does with requests: it gives each the next of `answers`, `ANSWER` after the last. None is an answer
    that waits for the `last` request; an empty one closes the connection."""

    def __init__(self, answers: list[bytes | None], last: int) -> None:
        self.open: set[asyncio.Transport] = set()
        self._answers, self._last = answers, last
        self._waiting: list[asyncio.Transport] = []

    def asked(self, transport: asyncio.Transport) -> None:
        self._last -= 1
        answer = self._answers.pop(0) if self._answers else ANSWER
        if answer is None:
            self._waiting.append(transport)
        elif answer:
            transport.write(answer)
        else:
            transport.close()
        if self._last == 0:
            for held in self._waiting:
                held.write(ANSWER)


class Server(asyncio.Protocol):
    """One connection of `Clients`."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clients.open.add(transport)

    def data_received(self, data: bytes) -> None:
        self._clients.asked(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._clients.open.discard(self._transport)


def run(plan: dict[str, Any], answers: list[bytes | None]) -> dict[str, Any]:
    """The figures of a load on a server that answers so."""

    async def measure() -> dict[str, Any]:
        clients = Clients(answers, last=20)
        server = await asyncio.get_running_loop().create_server(lambda: Server(clients), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        load = Load({"host": "127.0.0.1", "port": port, "heads": [HEAD], "tail": "", "first": 0, **plan})
        async with server:
            found = await (load.run_open() if plan["kind"] == "open" else load.run_closed())
            while clients.open:  # the client has closed its ends
                await asyncio.sleep(0)
        return found

    return asyncio.run(measure())


OPEN = {"kind": "open", "rate": 100.0, "seconds": 0.2, "seed": 0, "arrivals": "uniform"}


def test_a_slow_answer_keeps_no_request_from_being_sent_and_its_wait_counts() -> None:
    found = run(OPEN, [None])
    assert (found["requests"], found["failed"]) == (20, 0)
    # The first is answered when the last has come, which is due 19 gaps of 10 ms after it.
    assert found["max_ms"] >= 190
    assert found["p50_ms"] < found["max_ms"]
    assert found["connections"] >= 2


def test_what_fails_is_counted_by_kind_and_not_tried_again() -> None:
    found = run(OPEN, [ANSWER, REFUSED, b"", b"nonsense\r\n\r\n"])
    assert found["requests"] == 20
    assert found["problems"] == {"status 503": 1, "closed before the answer": 1, "no HTTP": 1}
    assert found["failed"] == 3


def test_a_closed_loop_has_a_request_on_each_connection() -> None:
    found = run({"kind": "closed", "connections": 3, "seconds": 0.2}, [])
    assert found["connections"] == 3
    assert (found["failed"], found["problems"]) == (0, {})
    assert found["requests"] >= 3


def test_where_nobody_listens_each_request_fails() -> None:
    async def measure() -> dict[str, Any]:
        server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return await Load(
            {"host": "127.0.0.1", "port": port, "heads": [HEAD], "tail": "", "first": 0, **OPEN}
        ).run_open()

    found = asyncio.run(measure())
    assert found["problems"] == {"no connection (ConnectionRefusedError)": 20}
    assert found["p99_ms"] is None


def test_callers_with_other_headers_ask_in_turn() -> None:
    load = Load({"heads": ["a", "b", "c"], "tail": "", "first": 0})
    assert [body[:1] for body in itertools.islice(load._bodies(), 7)] == [b"a", b"b", b"c", b"a", b"b", b"c", b"a"]
