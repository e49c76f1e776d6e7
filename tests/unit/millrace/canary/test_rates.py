"""Failures and losses: who exceeds whom, by how much, and within which bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.canary.observations import Observations
from millrace.canary.rates import Failures, Quality

ALPHA = 0.0025


def play(
    test: Failures, canary: float, primary: float, polls: int = 100, number: int = 100, share: float = 0.5
) -> None:
    rng = np.random.default_rng(3)
    for _ in range(polls):
        ours = int(rng.binomial(100, share))
        test.observe(
            Observations(ours, int(rng.binomial(ours, canary))),
            Observations(100 - ours, int(rng.binomial(100 - ours, primary))),
        )


def play_losses(test: Quality, canary: float, primary: float, spread: float, polls: int = 100) -> None:
    rng = np.random.default_rng(3)
    for _ in range(polls):
        arms = (np.clip(rng.normal(mean, spread, 100), 0, 1) for mean in (canary, primary))
        test.observe(*(Observations(100, losses=losses) for losses in arms))


def test_bounds_hold_the_difference_and_shrink() -> None:
    width = []
    for polls in (20, 400):
        test = Failures(0.0, 1)
        play(test, 0.06, 0.02, polls)
        found = test.evidence(ALPHA)
        lower = -1.0 if found.lower is None else found.lower
        upper = 1.0 if found.upper is None else found.upper
        assert lower <= 0.04 <= upper
        width.append(upper - lower)
    assert width[1] <= 0.03 < width[0]
    assert found.lower is not None
    assert found.lower > 0
    assert found.observed == pytest.approx(0.06, abs=0.01)
    assert found.threshold == pytest.approx(0.02, abs=0.01)
    assert "requests failed" in found.told


def test_a_tolerance_is_exact_and_within_it_nothing_is_held_against_the_canary() -> None:
    strict, tolerant = Failures(0.0, 1), Failures(0.05, 1)
    for test in (strict, tolerant):
        play(test, 0.06, 0.02)
    assert strict.log_e() > 6
    assert tolerant.log_e() < 1
    play(tolerant, 0.2, 0.02)
    assert tolerant.log_e() > 6


def test_a_canary_that_fails_wholly_is_found_in_a_few_requests() -> None:
    test = Failures(0.0, 4)
    test.observe(Observations(6, 6), Observations(94, 0))
    assert test.log_e() > 6


def test_a_better_canary_is_no_worse_one() -> None:
    test = Failures(0.0, 1)
    play(test, 0.0, 0.05)
    found = test.evidence(ALPHA)
    assert found.log_e_peak < 2
    assert found.upper is not None
    assert found.upper < 0


def test_an_hour_of_failures_before_the_canary_came_is_not_the_primarys_alone() -> None:
    """First 10 % fail and the canary has little traffic, then 1 % and half: pooled, the canary looks better by far."""
    test = Failures(0.0, 1)
    play(test, 0.10, 0.10, polls=100, share=0.02)
    test.start_step(0.5)
    play(test, 0.01, 0.01, polls=100, share=0.5)
    found = test.evidence(ALPHA)
    assert found.observed == pytest.approx(found.threshold, abs=0.005)
    assert found.lower is None or found.lower <= 0
    assert found.upper is None or found.upper >= 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_polls_are_put_together_until_they_are_a_stratum(polls: list[tuple[int, int]]) -> None:
    test = Failures(0.0, 1)
    for ours, theirs in polls:
        test.observe(Observations(ours), Observations(theirs))
    counted, together = [0, 0], [0, 0]
    for ours, theirs in polls:
        together = [together[0] + ours, together[1] + theirs]
        if sum(together) >= 20:
            if all(together):
                counted = [counted[0] + together[0], counted[1] + together[1]]
            together = [0, 0]
    found = test.evidence(ALPHA)
    assert [found.num_canary, found.num_primary] == counted


@pytest.mark.parametrize("arms", [(Observations(30, 30), Observations(0)), (Observations(0), Observations(30, 30))])
def test_requests_of_one_arm_only_compare_nothing(arms: tuple[Observations, Observations]) -> None:
    test = Failures(0.0, 1)
    test.observe(*arms)
    assert test.log_e() == pytest.approx(0)
    assert test.evidence(ALPHA).num_canary == 0


def test_a_stratum_that_is_open_when_the_share_changes_is_dropped() -> None:
    test = Failures(0.0, 2)
    test.observe(Observations(9, 9), Observations(9, 0))
    test.start_step(0.5)
    test.observe(Observations(9, 0), Observations(9, 0))
    assert test.evidence(ALPHA).num_canary == 0
    assert test.evidence(ALPHA).told == "nothing to compare yet"


# Quality


def test_losses_that_differ_little_are_compared_sharply() -> None:
    narrow, wide = Quality(0.0, 1), Quality(0.0, 1)
    play_losses(narrow, 0.31, 0.30, spread=0.03)
    play_losses(wide, 0.31, 0.30, spread=0.3)
    assert narrow.log_e() > 20
    assert wide.log_e() < 3
    found = narrow.evidence(ALPHA)
    assert found.lower is not None
    assert found.upper is not None
    assert 0 < found.lower <= 0.01 <= found.upper <= 0.05


def test_bets_are_bold_where_losses_hardly_vary() -> None:
    test = Quality(0.0, 1)
    play_losses(test, 0.302, 0.300, spread=0.01)
    assert test.log_e() > 20


def test_an_equal_or_a_tolerated_loss_is_no_breach() -> None:
    equal, tolerated = Quality(0.0, 1), Quality(0.05, 1)
    play_losses(equal, 0.3, 0.3, spread=0.1)
    play_losses(tolerated, 0.34, 0.3, spread=0.1)
    assert equal.evidence(ALPHA).log_e_peak < 4
    assert tolerated.evidence(ALPHA).log_e_peak < 4
    assert "mean loss 0.3" in equal.evidence(ALPHA).told


def test_outcomes_of_one_arm_only_compare_nothing() -> None:
    test = Quality(0.0, 1)
    for _ in range(5):
        test.observe(Observations(300, losses=np.ones(300)), Observations(300))
    assert test.evidence(ALPHA).num_canary == 0
