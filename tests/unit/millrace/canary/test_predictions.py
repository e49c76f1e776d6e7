"""Predictions: the cuts, what moves across them, and what may."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from millrace.canary.observations import Observations
from millrace.canary.predictions import Predictions, cuts_of

ALPHA = 0.0025
Floats = NDArray[np.float64]


def arm(values: Floats) -> Observations:
    return Observations(len(values), predictions=values)


def play(test: Predictions, canary: Floats, primary: Floats, polls: int = 150, seed: int = 2) -> None:
    """Each poll draws 60 and 60 of the values."""
    rng = np.random.default_rng(seed)
    for _ in range(polls):
        test.observe(arm(rng.choice(canary, 60)), arm(rng.choice(primary, 60)))


@given(st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0]) | st.floats(-5, 5), min_size=1, max_size=200))
def test_cuts_ascend_and_a_common_value_is_cut_off_on_both_sides(sample: list[float]) -> None:
    cuts, values = cuts_of(np.array(sample)), np.array(sample)
    assert (np.diff(cuts) > 0).all()
    above = [(values > cut).mean() for cut in cuts]
    for value in np.unique(values):
        # Nothing so common at a quantile hides whether there is more or less of it.
        if (values == value).mean() >= 0.3:
            assert pytest.approx((values >= value).mean()) in above
            assert pytest.approx((values > value).mean()) in above


def test_equal_distributions_are_no_breach_and_are_shown_to_be_near() -> None:
    test, values = Predictions(0.1, 1), np.linspace(0, 1, 500)
    play(test, values, values, polls=400)
    found = test.evidence(ALPHA)
    assert found.log_e_peak < 3
    assert found.lower is None
    assert found.upper is not None
    assert found.upper <= 0.1
    assert found.observed is not None
    assert found.observed < 0.03


@pytest.mark.parametrize("moved", [0.3, -0.3])
def test_what_moves_further_than_tolerated_either_way_is_a_breach(moved: float) -> None:
    values = np.linspace(0, 1, 500)
    strict, tolerant = Predictions(0.1, 1), Predictions(0.5, 1)
    for test in (strict, tolerant):
        play(test, values + moved, values)
    found = strict.evidence(ALPHA)
    assert found.log_e > 6
    assert found.lower is not None
    assert found.upper is not None
    assert 0.1 <= found.lower <= 0.3 <= found.upper
    assert found.observed == pytest.approx(0.3, abs=0.05)
    assert tolerant.evidence(ALPHA).log_e_peak < 3


def test_what_moves_within_the_tolerance_is_none() -> None:
    test, values = Predictions(0.1, 1), np.linspace(0, 1, 500)
    play(test, values + 0.07, values)
    assert test.evidence(ALPHA).log_e_peak < 3


def test_a_wider_distribution_of_the_same_middle_is_found() -> None:
    test, rng = Predictions(0.1, 1), np.random.default_rng(0)
    play(test, rng.normal(0, 3, 5000), rng.normal(0, 1, 5000))
    assert test.evidence(ALPHA).log_e > 6


@pytest.mark.parametrize(
    ("canary", "primary"),
    [
        (np.array([0.0, 1.0, 2.0, 2.0, 2.0]), np.array([0.0, 0.0, 0.0, 1.0, 2.0])),
        (np.array([0.0, 1.0]), np.array([1.0])),
        (np.array([1.0, 2.0]), np.array([1.0])),
    ],
    ids=["classes", "less than a constant", "more than a constant"],
)
def test_classes_and_constants_have_cuts(canary: Floats, primary: Floats) -> None:
    test, same = Predictions(0.1, 1), Predictions(0.1, 1)
    play(test, canary, primary)
    play(same, primary, primary)
    assert test.evidence(ALPHA).log_e > 6
    assert same.evidence(ALPHA).log_e_peak < 3


def test_predictions_that_are_no_numbers_are_found() -> None:
    test, values = Predictions(0.1, 1), np.linspace(0, 1, 500)
    play(test, np.where(values < 0.4, np.nan, values), values)
    assert test.evidence(ALPHA).log_e > 6


def test_the_cuts_come_from_the_primary_and_before_them_nothing_is_compared() -> None:
    test = Predictions(0.1, 3)
    test.observe(arm(np.full(5000, 9.0)), arm(np.linspace(0, 1, 499)))
    assert test.log_e() == 0
    test.start_step(0.5)
    test.observe(arm(np.zeros(0)), arm(np.array([0.5])))
    assert test.log_e() == pytest.approx(0)
    assert test.evidence(ALPHA).num_canary == 0
    test.observe(arm(np.full(50, 9.0)), arm(np.linspace(0, 1, 50)))
    assert test.log_e() > 6
    assert test.evidence(ALPHA).num_canary == 50
