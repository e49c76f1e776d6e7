"""One customer that asks without end, beside others that do not: the real door, places and batcher, simulated time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.batching.customers import SMALL, Caller, Came, play
from benchmarks.batching.simulation import Model
from millrace.limits import Limit

QUOTA = 100.0
OTHERS = {f"other-{number}": Caller(QUOTA, Limit.of(2 * QUOTA)) for number in range(4)}


def p99(found: dict[str, Came]) -> float:
    return float(np.quantile([seconds for name in OTHERS for seconds in found[name].latencies], 0.99))


def goodput(found: dict[str, Came]) -> int:
    return sum(len(found[name].latencies) for name in OTHERS)


@pytest.mark.parametrize("target", [None, 0.05])
def test_at_ten_times_its_limit_it_costs_the_others_nothing(target: float | None, tmp_path: Path) -> None:
    greedy = Caller(10 * QUOTA, Limit.of(QUOTA, 10))
    alone = play(OTHERS, tmp_path / "alone", seconds=10.0, target=target)
    beside = play({**OTHERS, "greedy": greedy}, tmp_path / "beside", seconds=10.0, target=target)
    assert goodput(alone) == sum(alone[name].asked for name in OTHERS)
    assert goodput(beside) >= 0.99 * goodput(alone)
    assert p99(beside) <= 1.2 * p99(alone)
    assert 0.95 * QUOTA * 10 <= len(beside["greedy"].latencies) <= QUOTA * 10 + 10


@pytest.mark.parametrize("target", [None, 0.1])
def test_without_a_limit_it_takes_what_is_left_and_not_what_others_need(target: float | None, tmp_path: Path) -> None:
    """It asks for more than the replica can: others wait for their turn, not for the whole of its queue."""
    model = Model(fixed=0.001, each=0.0002, request=SMALL.request)
    callers = {**OTHERS, "greedy": Caller(5000.0)}
    before, now = (
        play(callers, tmp_path / str(turns), seconds=3.0, target=target, model=model, takes_turns=turns)
        for turns in (False, True)
    )
    assert p99(before) > 0.5, "as it was when Serve let requests in by their age alone"
    assert p99(now) < 0.1
    assert goodput(now) >= 0.99 * sum(now[name].asked for name in OTHERS)
    assert len(now["greedy"].latencies) > 5 * QUOTA * 3, "no less than is left is its"
