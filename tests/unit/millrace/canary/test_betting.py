"""A bet wins nothing on average while its null holds: summed over every outcome, not drawn."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.canary.betting import ABOVE, BELOW, Bets, Marks, MeanBets, ScoreBets, Sums

arms = st.tuples(st.integers(1, 12), st.integers(1, 12))
shares = st.floats(0, 1)
differences = st.sampled_from([-0.5, -0.02, 0.0, 0.01, 0.3])


def binomial(number: int, chance: float) -> Iterator[tuple[int, float]]:
    for count in range(number + 1):
        yield count, math.comb(number, count) * chance**count * (1 - chance) ** (number - count)


def e_values(
    difference: float, canary: Marks | Sums, primary: Marks | Sums, centre: float, boldness: float
) -> list[float]:
    bets = MeanBets(np.array([difference]), 1)
    bets.settle(canary, primary, centre, boldness)
    return [math.exp(bets.log_e_values()[side, 0]) for side in (ABOVE, BELOW)]


@given(arms, shares, differences, st.floats(0, 1), st.floats(1, 20))
@settings(max_examples=60, deadline=None)
def test_with_independent_marks_at_the_null_the_mean_e_value_is_at_most_one(
    arms: tuple[int, int], nu: float, difference: float, centre: float, boldness: float
) -> None:
    (m, n), mu = arms, min(1.0, max(0.0, nu + difference))
    expected = np.zeros(2)
    for x, chance in binomial(m, mu):
        for y, other in binomial(n, nu):
            expected += chance * other * np.array(e_values(difference, Marks(x, m), Marks(y, n), centre, boldness))
    if nu + difference >= mu:  # not clipped at 0: the canary exceeds by at most the difference
        assert expected[ABOVE] <= 1 + 1e-9
    if nu + difference <= mu:
        assert expected[BELOW] <= 1 + 1e-9


@given(arms, st.data())
@settings(max_examples=60, deadline=None)
def test_with_any_marks_at_all_and_a_random_choice_the_mean_e_value_is_at_most_one(
    arms: tuple[int, int], data: st.DataObject
) -> None:
    m, n = arms
    marked = data.draw(st.integers(0, m + n))
    expected = np.zeros(2)
    for x in range(max(0, marked - n), min(m, marked) + 1):
        chance = math.comb(marked, x) * math.comb(m + n - marked, m - x) / math.comb(m + n, m)
        expected += chance * np.array(e_values(0.0, Marks(x, m), Marks(marked - x, n), 0.0, 1.0))
    assert (expected <= 1 + 1e-9).all()


def test_with_any_losses_and_two_values_per_arm_the_mean_e_value_is_at_most_one() -> None:
    """Canary: 0.2 or 0.6, primary: 0 or 0.8, of equal means; three requests each."""
    for centre, boldness in itertools.product((0.0, 0.4, 0.9), (1.0, 10.0)):
        expected = np.zeros(2)
        for x, chance in binomial(3, 0.5):
            for y, other in binomial(3, 0.5):
                ours, theirs = np.array([0.6] * x + [0.2] * (3 - x)), np.array([0.8] * y + [0.0] * (3 - y))
                our_sums, their_sums = (Sums(3, float(v.sum()), float(v @ v)) for v in (ours, theirs))
                expected += chance * other * np.array(e_values(0.0, our_sums, their_sums, centre, boldness))
        assert (expected <= 1 + 1e-9).all()


values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(values, st.floats(-0.9, 0.9), st.floats(0, 1))
def test_growth_from_sums_is_never_above_the_growth_of_each_value(
    found: list[float], loss_limit: float, pivot: float
) -> None:
    each = np.array(found)
    slope = np.array([[[loss_limit / max(pivot, 1 - pivot)]]])
    exact = np.log1p(slope[0, 0, 0] * (each - pivot)).sum()
    from_sums = Sums(len(each), float(each.sum()), float(each @ each)).growth(slope, np.array([pivot]))[0, 0, 0]
    assert from_sums <= exact + 1e-9
    if abs(loss_limit) < 0.05:
        assert from_sums == pytest.approx(exact, abs=0.001 * len(each))


def test_marks_are_values_of_0_and_1() -> None:
    slope, pivot = np.array([[[0.5, -0.3]]]), np.array([0.2])
    each = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    expected = [np.log1p(size * (each - 0.2)).sum() for size in (0.5, -0.3)]
    assert Marks(2, 5).growth(slope, pivot)[0, 0] == pytest.approx(expected)


@given(st.integers(1, 10), st.integers(1, 10), st.floats(0, 1), differences, st.floats(0, 1), st.floats(1, 100))
def test_nothing_that_happens_ruins_a_bet(
    m: int, n: int, part: float, difference: float, centre: float, boldness: float
) -> None:
    bets = MeanBets(np.array([difference]), 1)
    bets.settle(Marks(round(part * m), m), Marks(round((1 - part) * n), n), centre, boldness)
    assert np.isfinite(bets.log_e_values()).all()


def test_marks_of_the_canary_alone_raise_one_side_and_of_the_primary_alone_the_other() -> None:
    ours, theirs = MeanBets(np.zeros(1), 1), MeanBets(np.zeros(1), 1)
    for _ in range(20):
        ours.settle(Marks(1, 10), Marks(0, 10))
        theirs.settle(Marks(0, 10), Marks(1, 10))
    assert ours.log_e_values()[ABOVE, 0] > math.log(100) > 0 > ours.log_e_values()[BELOW, 0]
    assert theirs.log_e_values()[BELOW, 0] > math.log(100) > 0 > theirs.log_e_values()[ABOVE, 0]


def test_scores_of_mean_zero_win_nothing_and_a_score_counts_once() -> None:
    expected = np.zeros((2, 1))
    for score in (1.0, -1.0):
        bets = ScoreBets(1, 1)
        bets.settle(np.array([score]))
        expected += 0.5 * np.exp(bets.log_e_values())
        assert np.exp(bets.log_e_values()).max() < 2
    assert expected == pytest.approx(np.ones((2, 1)))


# Deposits


def test_capital_is_paid_in_step_by_step_and_is_one_in_all() -> None:
    bets = MeanBets(np.zeros(2), 3)
    for deposits in (1, 2, 3, 3):
        assert bets.deposits == deposits
        assert bets.log_e_values() == pytest.approx(np.zeros((2, 2)))
        bets.deposit()


def test_what_is_not_paid_in_cannot_be_lost_and_meets_a_late_harm() -> None:
    kept, spent = MeanBets(np.zeros(1), 2), MeanBets(np.zeros(1), 1)
    for bets in (kept, spent):
        for _ in range(300):  # the canary does better: capital against it goes
            bets.settle(Marks(1, 50), Marks(5, 50))
    assert math.exp(kept.log_e_values()[ABOVE, 0]) == pytest.approx(0.5, abs=0.01)
    assert math.exp(spent.log_e_values()[ABOVE, 0]) < 0.01
    for bets in (kept, spent):
        bets.deposit()
        for _ in range(20):
            bets.settle(Marks(5, 50), Marks(1, 50))
    assert kept.log_e_values()[ABOVE, 0] > math.log(400) > spent.log_e_values()[ABOVE, 0]


# State


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=10), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_state_is_json_and_goes_on_exactly(strata: list[tuple[int, int]], deposits: int) -> None:
    bets, again = MeanBets(np.array([0.0, 0.1]), 3, deposits), MeanBets(np.array([0.0, 0.1]), 3)
    for x, y in strata:
        bets.settle(Marks(x, 5), Marks(y, 5))
    again.restore(json.loads(json.dumps(bets.state(), allow_nan=False)))
    for each in (bets, again):
        each.deposit()
        each.settle(Marks(2, 7), Marks(1, 7))
    assert (bets.log_e_values() == again.log_e_values()).all()
    assert bets.deposits == again.deposits


@pytest.mark.parametrize("wealth", [[[], []], [[[0.0] * 9]] * 2, [[[float("nan")] * 9] * 2] * 2])
def test_a_state_of_another_grid_is_refused(wealth: list[object]) -> None:
    bets: Bets = MeanBets(np.array([0.0, 0.1]), 3)
    with pytest.raises(ValueError, match="log_wealth of shape"):
        bets.restore({"deposits": 1, "log_wealth": wealth})
