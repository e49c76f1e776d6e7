"""The brakes hold whatever the windows do: K of N, cool-down, budget, over years of a clock that tests turn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.brakes import decide
from millrace.spec import BrakesSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY, WEEK = timedelta(days=1), timedelta(days=7)
LOOSE: dict[str, Any] = {"bad_windows": 1, "of_windows": 1, "cool_down_days": 0.0, "max_incidents": 1000}


def brakes(**change: Any) -> BrakesSpec:
    return BrakesSpec(**(LOOSE | change))


def simulate(rule: BrakesSpec, bad: list[bool], step: timedelta = WEEK) -> list[datetime]:
    """The event times at which incidents open, one judged window a `step`."""
    incidents: list[datetime] = []
    for number in range(len(bad)):
        now = START + number * step
        if decide(rule, bad[number::-1], incidents, now).release:
            incidents.append(now)
    return incidents


rules = st.builds(
    lambda bad, more, cool, most, budget: BrakesSpec(
        bad_windows=bad, of_windows=bad + more, cool_down_days=cool, max_incidents=most, budget_days=budget
    ),
    bad=st.integers(1, 4),
    more=st.integers(0, 3),
    cool=st.sampled_from([0.0, 7.0, 10.5, 30.0]),
    most=st.integers(0, 5),
    budget=st.sampled_from([14.0, 90.0, 365.0]),
)


@given(rule=rules, bad=st.lists(st.booleans(), min_size=1, max_size=110))
@settings(max_examples=150, deadline=None)
def test_no_year_however_it_flaps_gets_past_the_brakes(rule: BrakesSpec, bad: list[bool]) -> None:
    incidents = simulate(rule, bad)
    cool_down, budget = timedelta(days=rule.cool_down_days), timedelta(days=rule.budget_days)
    assert all(later - earlier >= cool_down for earlier, later in pairwise(incidents))
    for now in incidents:
        assert sum(now - budget <= other <= now for other in incidents) <= rule.max_incidents
        newest = [
            bad[number] for number in range(len(bad)) if now - rule.of_windows * WEEK < START + number * WEEK <= now
        ]
        assert newest[-1], "the newest window is bad"
        assert sum(newest) >= rule.bad_windows


@given(rule=rules, bad=st.lists(st.booleans(), min_size=1, max_size=110))
@settings(max_examples=100, deadline=None)
def test_nothing_is_held_back_without_a_brake(rule: BrakesSpec, bad: list[bool]) -> None:
    """K of N alone decides where there is neither cool-down nor budget."""
    free = rule.model_copy(update={"cool_down_days": 0.0, "max_incidents": 10**6})
    expected = [
        START + number * WEEK
        for number in range(len(bad))
        if bad[number] and sum(bad[max(0, number + 1 - rule.of_windows) : number + 1]) >= rule.bad_windows
    ]
    assert simulate(free, bad) == expected


def test_a_year_that_is_always_bad_spends_its_budget_and_no_more() -> None:
    rule = BrakesSpec(bad_windows=2, of_windows=3, cool_down_days=14.0, max_incidents=6, budget_days=365.0)
    incidents = simulate(rule, [True] * 52)
    assert incidents == [START + WEEK + number * 2 * WEEK for number in range(6)]
    two_years = simulate(rule, [True] * 104)
    assert len(two_years) == 12, "a new year has a new budget"


def test_a_flapping_day_by_day_year_is_cooled_down() -> None:
    rng = np.random.default_rng(0)
    rule = brakes(bad_windows=2, of_windows=4, cool_down_days=30.0)
    incidents = simulate(rule, (rng.random(365) < 0.5).tolist(), DAY)
    assert 10 <= len(incidents) <= 12


@pytest.mark.parametrize(
    ("windows", "release", "reason"),
    [
        ([], False, "the newest window is good"),
        ([False, True, True], False, "the newest window is good"),
        ([True, False, False], False, "1 of the newest 3 windows bad, 2 needed"),
        ([True, False, False, True], False, "1 of the newest 3 windows bad, 2 needed"),
        ([True, False, True], True, "2 of the newest 3 windows bad"),
        ([True, True], True, "2 of the newest 3 windows bad"),
        ([True], False, "1 of the newest 3 windows bad, 2 needed"),
    ],
)
def test_k_of_n_counts_the_newest_windows(windows: list[bool], release: bool, reason: str) -> None:
    decision = decide(brakes(bad_windows=2, of_windows=3), windows, [], START)
    assert (decision.release, decision.reason) == (release, reason)


@pytest.mark.parametrize(("days", "release"), [(13, False), (14, True)])
def test_the_cool_down_ends_on_its_last_day(days: int, release: bool) -> None:
    decision = decide(brakes(cool_down_days=14.0), [True], [START], START + days * DAY)
    assert decision.release is release
    if not release:
        assert decision.reason == "cooling down: 14 days around the incident of 2024-01-01"


@pytest.mark.parametrize(("days", "release"), [(100, False), (101, True)])
def test_the_budget_counts_the_days_it_says(days: int, release: bool) -> None:
    rule = brakes(max_incidents=2, budget_days=100.0)
    decision = decide(rule, [True], [START, START + DAY], START + days * DAY)
    assert decision.release is release
    if not release:
        assert decision.reason == "budget spent: 2 incidents in 100 days, 2 allowed"


def test_no_budget_is_no_incident() -> None:
    assert decide(brakes(max_incidents=0), [True], [], START).reason.startswith("budget spent: 0 incidents")


def test_a_window_that_is_judged_again_opens_nothing_new() -> None:
    decision = decide(brakes(), [True], [START], START)
    assert (decision.release, decision.reason) == (False, "this window has its incident already")


def test_an_older_window_judged_late_opens_nothing_beside_a_later_incident() -> None:
    rule = BrakesSpec(bad_windows=1, of_windows=1, cool_down_days=14)
    later = datetime(2024, 3, 10, tzinfo=UTC)
    assert not decide(rule, [True], [later], later - timedelta(days=7)).release
    assert decide(rule, [True], [later], later - timedelta(days=14)).release
