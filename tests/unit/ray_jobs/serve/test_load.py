"""A replica counts its load: what came, what left, what it worked, and how long it took to come up."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.autoscaling import Reading
from millrace.autoscaling.readings import KEYS
from ray_jobs.serve.load import INGRESS_RATE, Counted, ServiceLoad


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def load(clock: Clock) -> ServiceLoad:
    return ServiceLoad(clock, cpu_clock=lambda: clock.now / 4)


def reading(load: ServiceLoad) -> Reading:
    metrics = load.as_metrics()
    assert tuple(metrics) == KEYS
    assert all(isinstance(value, int | float) for value in metrics.values()), "Serve takes nothing else"
    found = Reading.of(1.0, metrics)
    assert found is not None
    return found


def test_a_replica_that_did_nothing_says_so(load: ServiceLoad) -> None:
    assert reading(load) == Reading(1.0, 0, 0, 0, 0, cpu_seconds_total=25.0)


def test_requests_and_their_seconds_are_counted(load: ServiceLoad, clock: Clock) -> None:
    for seconds in (0.1, 0.3):
        load.arrived()
        with load.work():
            clock.now += seconds
        load.left()
    load.arrived()
    found = reading(load)
    assert (found.arrivals_total, found.answered_total, found.in_flight) == (3, 2, 1)
    assert found.busy_seconds_total == pytest.approx(0.4)
    assert found.busy_squares_total == pytest.approx(0.01 + 0.09)


def test_a_batch_costs_its_seconds_once(load: ServiceLoad, clock: Clock) -> None:
    with load.work(requests=4):
        clock.now += 0.2
    found = reading(load)
    assert found.busy_seconds_total == pytest.approx(0.2)
    # As if each of the four had taken 50 ms.
    assert found.busy_squares_total == pytest.approx(4 * 0.05**2)


def test_work_that_fails_is_work(load: ServiceLoad, clock: Clock) -> None:
    def fail() -> None:
        with load.work():
            clock.now += 0.2
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    assert reading(load).busy_seconds_total == pytest.approx(0.2)


def test_the_warm_up_ends_once(load: ServiceLoad, clock: Clock) -> None:
    clock.now += 3
    load.warmed()
    clock.now += 50
    load.warmed()
    assert reading(load).warm_up_seconds == pytest.approx(3.0)


def test_threads_lose_no_count() -> None:
    load = ServiceLoad()

    def count() -> None:
        for _ in range(2000):
            load.arrived()
            with load.work():
                pass
            load.left()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = reading(load)
    assert (found.arrivals_total, found.answered_total, found.in_flight) == (8000, 8000, 0)


async def ask(app: Any, kind: str = "http") -> None:
    await Counted(app, app.load)({"type": kind, "headers": []}, nothing, nothing)


async def nothing(*_: Any) -> dict[str, Any]:
    return {}


class Application:
    """Works 0.1 s, waits for `gate`, and works 0.2 s more."""

    def __init__(self, load: ServiceLoad, clock: Clock) -> None:
        self.load, self.clock = load, clock
        self.gate = asyncio.Event()
        self.ended = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.clock.now += 0.1
        try:
            await self.gate.wait()
            await receive()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.clock.now += 0.2
        self.ended = "answered"
        if scope["type"] == "bad":
            raise ValueError("bad")


def test_what_a_request_waits_for_is_not_its_work(load: ServiceLoad, clock: Clock) -> None:
    async def both() -> None:
        app = Application(load, clock)
        asked = [asyncio.create_task(ask(app)) for _ in range(2)]
        await asyncio.sleep(0)
        assert reading(load).in_flight == 2
        clock.now += 7.0
        app.gate.set()
        await asyncio.gather(*asked)

    asyncio.run(both())
    found = reading(load)
    assert (found.arrivals_total, found.answered_total) == (2, 2)
    assert found.busy_seconds_total == pytest.approx(0.6)
    assert found.busy_squares_total == pytest.approx(2 * 0.3**2)


def test_a_caller_who_goes_away_is_no_longer_in_flight(load: ServiceLoad, clock: Clock) -> None:
    async def give_up() -> None:
        app = Application(load, clock)
        asked = asyncio.create_task(ask(app))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert app.ended == "cancelled"

    asyncio.run(give_up())
    found = reading(load)
    assert (found.arrivals_total, found.in_flight) == (1, 0)
    assert found.busy_seconds_total == pytest.approx(0.1)


def test_an_error_goes_through_and_other_connections_are_not_counted(load: ServiceLoad, clock: Clock) -> None:
    async def fail() -> None:
        app = Application(load, clock)
        app.gate.set()
        await ask(app, "lifespan")

        async def bad(scope: Any, receive: Any, send: Any) -> None:
            await app({"type": "bad"}, receive, send)

        with pytest.raises(ValueError, match="bad"):
            await Counted(bad, load)({"type": "http", "headers": []}, nothing, nothing)

    asyncio.run(fail())
    found = reading(load)
    assert (found.arrivals_total, found.answered_total) == (1, 1)
    assert found.busy_seconds_total == pytest.approx(0.3)


def test_who_is_refused_at_the_ingress_has_arrived(load: ServiceLoad, clock: Clock) -> None:
    """200 a second come to the ingress for two replicas; this one gets 30 of its 100 in a second, the rest wait."""
    load.replicas = 2
    for _ in range(30):
        load.arrived(200.0)
    clock.now += 1.0
    assert reading(load).arrivals_total == 100
    # Nobody waits any more: what comes is what is counted.
    load.arrived()
    clock.now += 1.0
    found = reading(load)
    assert (found.arrivals_total, found.in_flight) == (101, 31)


def test_who_waited_at_the_ingress_and_comes_later_has_arrived_once(load: ServiceLoad, clock: Clock) -> None:
    """100 come, of whom 60 are let in; then 20 come, and 55 are let in while some still wait."""
    totals = []
    for offered, let_in in ((100.0, 60), (20.0, 55), (0.0, 5)):
        for _ in range(let_in):
            load.arrived(offered)
        clock.now += 1.0
        totals.append(reading(load).arrivals_total)
    assert totals[:2] == [100, 120]
    # Nobody waits any more, so nobody knows which of these had waited.
    assert totals[2] == 125


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), max_size=20), st.integers(1, 5))
def test_arrivals_never_shrink_and_are_never_fewer_than_came(seconds: list[tuple[int, int]], replicas: int) -> None:
    clock = Clock()
    load = ServiceLoad(clock, cpu_clock=lambda: 0.0, replicas=replicas)
    came, before = 0, 0.0
    for offered, let_in in seconds:
        for _ in range(let_in):
            load.arrived(float(offered))
        clock.now += 1.0
        came += let_in
        now = reading(load).arrivals_total
        assert now >= before - 1e-6
        assert now >= came - 1e-6
        before = now


@pytest.mark.parametrize(("value", "arrived"), [(b"50", 50), (b"0", 1), (b"-7", 1), (b"1e3", 1), ("²".encode(), 1)])
def test_the_ingress_says_how_many_come_with_a_header(
    value: bytes, arrived: int, load: ServiceLoad, clock: Clock
) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        clock.now += 1.0

    scope: Any = {"type": "http", "headers": [(b"host", b"a"), (INGRESS_RATE, value)]}
    asyncio.run(Counted(answer, load)(scope, nothing, nothing))
    assert reading(load).arrivals_total == arrived
