"""So many are worked on at once, each that waits gets its turn, and nobody's queue is what others wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.batching.virtual_loop import VirtualClock, VirtualLoop
from millrace.errors import OverloadedError
from ray_jobs.serve.places import ROOM, Places

SECONDS = 0.010


class Bench:
    """Requests that hold their place for 10 ms; times are simulated."""

    def __init__(self, most: int) -> None:
        self.clock = VirtualClock()
        self.places = Places(most, self.clock)
        self.at_work = self.most_at_work = 0
        self.order: list[str] = []

    async def ask(self, customer: str, at: float = 0.0, target: float = float("inf")) -> float:
        """Seconds until it was done."""
        await asyncio.sleep(at - self.clock())
        await self.places.enter(customer, at + target)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        self.order.append(customer)
        try:
            await asyncio.sleep(SECONDS)
        finally:
            self.at_work -= 1
            self.places.leave()
        return self.clock() - at

    def run(self, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
        async def together() -> list[Any]:
            return await asyncio.gather(*asked, return_exceptions=True)

        loop = VirtualLoop(self.clock)
        try:
            return loop.run_until_complete(together())
        finally:
            loop.close()

    def is_empty(self) -> bool:
        return not (self.places._taken or self.places._waiting or self.places._queues)


@given(
    most=st.integers(1, 4),
    asked=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.1)), min_size=1, max_size=40),
)
def test_all_get_their_turn_and_never_more_than_so_many_at_once(most: int, asked: list[tuple[str, float]]) -> None:
    bench = Bench(most)
    found = bench.run(*[bench.ask(customer, at) for customer, at in asked])
    assert all(isinstance(seconds, float) for seconds in found)
    assert bench.most_at_work <= most
    assert bench.is_empty()


def test_who_finds_a_free_place_waits_for_nothing() -> None:
    bench = Bench(2)
    assert bench.run(bench.ask("a"), bench.ask("b")) == [pytest.approx(SECONDS)] * 2


def test_the_queue_of_one_is_not_what_others_wait_for() -> None:
    bench = Bench(1)
    bench.run(*[bench.ask("greedy") for _ in range(50)], *[bench.ask("modest", 0.001) for _ in range(3)])
    assert bench.order[:8] == ["greedy", "greedy", "modest", "greedy", "modest", "greedy", "modest", "greedy"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 0.05), st.floats(0, 0.05)), min_size=1, max_size=30),
    st.integers(1, 3),
)
def test_who_goes_away_leaves_its_place_to_the_others(asked: list[tuple[str, float, float]], most: int) -> None:
    bench = Bench(most)

    async def impatient(customer: str, at: float, patience: float) -> None:
        async with asyncio.timeout_at(at + patience):
            await bench.ask(customer, at)

    bench.run(*[impatient(*each) for each in asked])
    assert bench.most_at_work <= most
    assert bench.is_empty()
    assert bench.run(bench.ask("a", bench.clock())) == [pytest.approx(SECONDS)]


def test_who_goes_away_just_when_its_turn_comes_gives_it_on() -> None:
    async def story() -> list[str]:
        places, order = Places(1), []
        await places.enter("a")

        async def ask(name: str) -> None:
            await places.enter("a")
            order.append(name)

        first, second = asyncio.ensure_future(ask("first")), asyncio.ensure_future(ask("second"))
        await asyncio.sleep(0)
        places.leave()
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        return order

    assert asyncio.run(story()) == ["second"]


def test_with_a_deadline_who_would_be_late_is_refused_at_once_and_the_others_are_in_time() -> None:
    bench = Bench(1)
    asked = [bench.ask("a", 0.005 * number, target=0.055) for number in range(200)]
    found = bench.run(*asked)
    answered = [seconds for seconds in found if isinstance(seconds, float)]
    refused = [error for error in found if isinstance(error, OverloadedError)]
    assert len(answered) + len(refused) == 200
    assert 90 <= len(answered) <= 110, "as many as can be"
    # Until the first two that waited have left, how fast it goes is not known.
    assert sum(seconds > 0.066 for seconds in answered) <= 3
    assert 0 < refused[0].retry_after < 1


def test_a_customer_may_fill_half_the_room() -> None:
    bench = Bench(1)
    found = bench.run(*[bench.ask("greedy") for _ in range(ROOM)], bench.ask("modest"))
    refused = [error for error in found if isinstance(error, OverloadedError)]
    assert len(refused) == ROOM - 1 - ROOM // 2
    assert "too many requests of this customer" in str(refused[0])
    assert isinstance(found[-1], float)
