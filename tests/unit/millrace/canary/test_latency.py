"""p95 against p95: the cut, the ranks, the bounds, and bursts of either kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from millrace.canary.latency import Latency, mid_ranks, slowest
from millrace.canary.observations import Observations

ALPHA = 0.0025
latencies = st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0, 10.0, 50.0]), min_size=1, max_size=60)


@given(latencies, latencies, st.sampled_from([0.5, 1.0, 1.25, 3.0]))
def test_the_slowest_are_those_above_the_pooled_p95(ours: list[float], theirs: list[float], ratio: float) -> None:
    canary, primary = np.array(ours), np.array(theirs)
    pooled = np.sort(np.concatenate([canary / ratio, primary]))
    cut = pooled[math.ceil(0.95 * len(pooled)) - 1]
    slow, both = slowest(canary, primary, np.array([ratio]))
    assert slow[0] == (canary / ratio > cut).sum()
    assert both[0] == (pooled > cut).sum()
    assert both[0] <= 0.05 * len(pooled)


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_the_mid_rank_of_a_random_choice_is_a_half_on_average(m: int, n: int, data: st.DataObject) -> None:
    marked = data.draw(st.integers(0, m + n))
    counts = np.arange(max(0, marked - n), min(marked, m) + 1)
    chances = [math.comb(marked, x) * math.comb(m + n - marked, m - x) / math.comb(m + n, m) for x in counts.tolist()]
    ranks = mid_ranks(counts, np.full(len(counts), marked), m, m + n)
    assert ranks @ chances == pytest.approx(0.5)
    assert (np.diff(ranks) > 0).all()
    expected = np.cumsum(chances) - np.array(chances) / 2
    assert ranks == pytest.approx(expected, abs=1e-12)


def arm(values: NDArray[np.float64]) -> Observations:
    return Observations(len(values), latencies_ms=values)


def play(test: Latency, ratio: float, polls: int = 200, number: int = 100, seed: int = 5, ours: float = 0.0) -> None:
    """Lognormal latencies of half the requests each; `ours`: the canary alone stops in so many polls."""
    rng = np.random.default_rng(seed)
    for _ in range(polls):
        paused = rng.random(2) < ours
        canary, primary = (rng.lognormal(3, 0.5, number // 2) * (20 if stops else 1) for stops in paused)
        test.observe(arm(canary * ratio), arm(primary))


def test_bounds_hold_the_ratio_and_the_p95s_are_told() -> None:
    test = Latency(1.05, 1, 0.5)
    play(test, 1.4, polls=400)
    found = test.evidence(ALPHA)
    assert found.lower is not None
    assert found.upper is not None
    assert 1.2 <= found.lower <= 1.4 <= found.upper <= 2.0
    p95 = math.exp(3 + 0.5 * 1.645)
    assert found.observed == pytest.approx(1.4 * p95, rel=0.05)
    assert found.threshold == pytest.approx(1.05 * p95, rel=0.05)
    assert found.log_e > 6


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.05])
def test_what_is_not_slower_than_tolerated_is_no_breach(ratio: float) -> None:
    test = Latency(1.05, 1, 0.5)
    play(test, ratio, polls=400)
    assert test.evidence(ALPHA).log_e_peak < 4


def test_how_slow_both_arms_are_in_a_stratum_changes_nothing() -> None:
    calm, stormy = Latency(1.05, 1, 0.5), Latency(1.05, 1, 0.5)
    rng = np.random.default_rng(1)
    for poll in range(100):
        canary, primary = rng.lognormal(3, 0.5, 40), rng.lognormal(3, 0.5, 60)
        slow = 30.0 if (poll // 5) % 3 == 0 else 1.0
        calm.observe(arm(canary), arm(primary))
        stormy.observe(arm(canary * slow), arm(primary * slow))
    assert calm.log_e() == pytest.approx(stormy.log_e())


def test_one_pause_of_the_canary_alone_counts_once_however_many_wait_for_it() -> None:
    few, many = Latency(1.0, 1, 0.5), Latency(1.0, 1, 0.5)
    for test, waiting in ((few, 50), (many, 400)):
        for _ in range(5):
            test.observe(arm(np.linspace(900, 1000, waiting)), arm(np.linspace(1, 10, waiting)))
        assert 0 < test.log_e() < math.log(2)


def test_pauses_that_both_arms_have_alike_are_no_breach() -> None:
    peaks = []
    for seed in range(10):
        test = Latency(1.0, 1, 0.5)
        play(test, 1.0, polls=300, seed=seed, ours=0.05)
        peaks.append(test.evidence(ALPHA).log_e_peak)
    assert max(peaks) < 6


def test_a_stratum_takes_five_polls_and_enough_answers() -> None:
    test = Latency(1.05, 2, 0.05)
    answers = np.arange(1.0, 101.0)
    counted = []
    for _ in range(40):
        test.observe(arm(answers[:5]), arm(answers[5:]))
        counted.append(test.evidence(ALPHA).num_primary)
    assert [counted.index(number) + 1 for number in sorted(set(counted) - {0})] == [20, 40]
    test.start_step(0.5)
    for poll in range(5):
        assert test.evidence(ALPHA).num_primary == counted[-1], poll
        test.observe(arm(answers[:50]), arm(answers[50:]))
    assert test.evidence(ALPHA).num_primary == counted[-1] + 250


def test_much_traffic_makes_a_stratum_whatever_the_polls_are() -> None:
    test = Latency(1.05, 1, 0.5)
    test.observe(arm(np.ones(10_000)), arm(np.ones(10_000)))
    assert test.evidence(ALPHA).num_canary == 10_000


def test_latencies_that_are_all_the_same_say_nothing() -> None:
    test = Latency(1.0, 1, 0.5)
    for _ in range(50):
        test.observe(arm(np.full(50, 7.0)), arm(np.full(50, 7.0)))
    assert test.log_e() == pytest.approx(0)
    assert test.evidence(ALPHA).observed == pytest.approx(7, rel=0.03)
