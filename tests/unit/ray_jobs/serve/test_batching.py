"""Requests that are answered together, on a simulated event loop: time passes only where the model works."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.batching.virtual_loop import VirtualClock, VirtualLoop
from millrace.errors import OverloadedError
from ray_jobs.serve.batching import Batch, Batcher, Turn
from ray_jobs.serve.cache import AnswerCache

FIXED, EACH = 0.010, 0.001


class Bench:
    """A model that takes 10 ms a batch and 1 ms a row, and answers each row with its own number."""

    def __init__(self, target: float | None = None, cache: AnswerCache | None = None) -> None:
        self.clock = VirtualClock()
        self.batches: list[list[float]] = []
        self.batcher = Batcher(self._execute, target, cache, clock=self.clock)
        for rows in (1, 64):
            self.batcher.cost.observe(rows, FIXED + EACH * rows)

    def _execute(self, batch: Batch) -> Any:
        numbers = batch["numeric"][:, 0]
        self.batches.append(numbers.tolist())
        self.clock.work(FIXED + EACH * len(numbers))
        if (numbers < 0).any():
            raise ValueError("a negative number")
        return numbers.copy()

    def run(self, *asked: Coroutine[Any, Any, Any]) -> list[Any]:
        async def together() -> list[Any]:
            return await asyncio.gather(*asked, return_exceptions=True)

        loop = VirtualLoop(self.clock)
        try:
            return loop.run_until_complete(together())
        finally:
            loop.close()

    async def ask(self, *numbers: float, at: float = 0.0, customer: str = "") -> Turn:
        await asyncio.sleep(at - self.clock())
        return await self.batcher.answer(rows(*numbers), customer=customer, deadline=self.batcher.deadline(at))


def rows(*numbers: float) -> Batch:
    return {"numeric": np.asarray([[n] for n in numbers], np.float32), "categorical": np.zeros((len(numbers), 0))}


def test_a_lone_request_waits_for_nothing() -> None:
    bench = Bench()
    (timed,) = bench.run(bench.ask(7.0))
    assert timed.answers.tolist() == [7.0]
    assert (timed.began, timed.ended) == (0.0, pytest.approx(FIXED + EACH))


def test_what_comes_while_the_model_is_busy_is_the_next_batch() -> None:
    bench = Bench()
    bench.run(bench.ask(1.0), *[bench.ask(float(n), at=0.002) for n in range(2, 7)])
    assert [sorted(batch) for batch in bench.batches] == [[1.0], [2.0, 3.0, 4.0, 5.0, 6.0]]


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 0.2)), min_size=1, max_size=30))
def test_each_request_gets_its_own_answers(asked: list[tuple[int, float]]) -> None:
    bench = Bench()
    given = [[float(number * 10 + row) for row in range(count)] for number, (count, _) in enumerate(asked)]
    found = bench.run(*[bench.ask(*numbers, at=at) for numbers, (_, at) in zip(given, asked, strict=True)])
    assert [timed.answers.tolist() for timed in found] == given
    assert bench.batcher.waiting_rows == 0
    assert sorted(number for batch in bench.batches for number in batch) == sorted(n for part in given for n in part)


def test_two_batches_fit_into_the_target() -> None:
    bench = Bench(target=0.0605)
    found = bench.run(*[bench.ask(float(n)) for n in range(40)])
    assert [len(batch) for batch in bench.batches] == [20, 20]  # 10 ms + 20 * 1 ms, twice
    assert all(isinstance(timed, Turn) and timed.ended <= 0.0605 for timed in found)


def test_what_would_be_late_is_refused_at_once_and_the_others_are_in_time() -> None:
    bench = Bench(target=0.060)
    found = bench.run(*[bench.ask(float(n), at=0.001 * (n // 10)) for n in range(400)])
    refused = [error for error in found if isinstance(error, OverloadedError)]
    answered = [timed for timed in found if isinstance(timed, Turn)]
    assert len(refused) + len(answered) == 400
    assert refused[0].retry_after > 0.02
    assert len(answered) >= 40
    assert all(timed.ended <= 0.001 * (timed.answers[0] // 10) + 0.060 for timed in answered)
    # What is refused costs the model nothing.
    assert sum(map(len, bench.batches)) == len(answered)


def test_customers_take_turns() -> None:
    bench = Bench(target=0.060)
    greedy = [bench.ask(float(n), customer="greedy") for n in range(300)]
    modest = [bench.ask(1000.0 + n, customer="modest") for n in range(5)]
    found = bench.run(*greedy, *modest)
    assert all(isinstance(timed, Turn) for timed in found[300:])
    assert any(isinstance(error, OverloadedError) for error in found[:300])
    assert {number for number in bench.batches[0] if number >= 1000} == {1000.0, 1001.0, 1002.0, 1003.0, 1004.0}


def test_one_that_fails_fails_alone() -> None:
    bench = Bench()
    first, bad, second = bench.run(bench.ask(1.0), bench.ask(-1.0), bench.ask(2.0))
    assert isinstance(bad, ValueError)
    assert (first.answers.tolist(), second.answers.tolist()) == ([1.0], [2.0])


def test_a_turn_says_how_far_it_got() -> None:
    bench = Bench()

    async def ask() -> list[Turn]:
        turns = [bench.batcher.ask(rows(number)) for number in (1.0, -1.0)]
        await asyncio.gather(*[turn.done for turn in turns], return_exceptions=True)
        return turns

    ((good, bad),) = bench.run(ask())
    # The batch of both has failed, after 12 ms; then each was executed alone.
    assert (good.queued, good.taken, good.began, good.ended) == pytest.approx((0.0, 0.0, 0.012, 0.023))
    assert (bad.taken, bad.began, bad.ended, bad.batch_rows) == (0.0, *map(pytest.approx, (0.023, 0.034)), 0)


def test_a_caller_that_goes_away_leaves_the_others_their_answers() -> None:
    bench = Bench()

    async def impatient() -> None:
        asked = asyncio.ensure_future(bench.ask(2.0))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    first, _, third = bench.run(bench.ask(1.0), impatient(), bench.ask(3.0))
    assert (first.answers.tolist(), third.answers.tolist()) == ([1.0], [3.0])
    assert bench.batches == [[1.0, 3.0]]


def test_a_small_batch_is_no_load_for_being_small() -> None:
    bench = Bench(target=0.0605)  # at the most 20 rows a batch: 1.5 ms a row
    told: list[tuple[float, int]] = []
    bench.batcher.worked = lambda seconds, rows: told.append((seconds, rows))
    bench.run(bench.ask(1.0), bench.ask(2.0, 3.0, at=0.5))
    assert told == [(pytest.approx(0.0015, rel=0.01), 1), (pytest.approx(0.0030, rel=0.01), 2)]


def test_rows_that_were_answered_are_not_executed_again() -> None:
    bench = Bench(cache=AnswerCache(1_000_000, 60))
    found = bench.run(bench.ask(1.0, 2.0), bench.ask(2.0, 1.0), bench.ask(2.0, 3.0, at=0.5))
    assert [timed.answers.tolist() for timed in found] == [[1.0, 2.0], [2.0, 1.0], [2.0, 3.0]]
    assert bench.batches == [[1.0, 2.0], [3.0]]
    assert [turn.cached_rows for turn in found] == [0, 2, 1]


def test_an_answer_that_is_no_number_is_not_remembered() -> None:
    bench = Bench(cache=AnswerCache(1_000_000, 60))
    bench.run(bench.ask(float("nan")))
    bench.run(bench.ask(float("nan")))
    assert len(bench.batches) == 2


def test_versions_on_one_loop_are_in_time_together() -> None:
    first, second = Bench(target=0.080), Bench(target=0.080)
    second.clock = second.batcher.clock = first.clock  # one loop
    first.batcher.peers, second.batcher.peers = (second.batcher,), (first.batcher,)
    asked = [bench.ask(float(number)) for number in range(60) for bench in (first, second)]
    found = first.run(*asked)
    answered = [timed for timed in found if isinstance(timed, Turn)]
    assert len(answered) >= 30
    assert all(timed.ended <= 0.080 + 1e-9 for timed in answered)
    # Who is refused is refused before it waits: no batch holds a row that nobody gets.
    rows_executed = sum(len(batch) for bench in (first, second) for batch in bench.batches)
    assert rows_executed == len(answered)
