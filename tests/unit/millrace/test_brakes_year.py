"""The brakes hold over a year of a flapping detector: hourly windows, judged late, twice and out of order."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millrace.brakes import decide
from millrace.spec import BrakesSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
HOURS = 366 * 24

Detector = Callable[[random.Random], list[bool]]

rules = st.builds(
    lambda bad, more, cool, most, budget: BrakesSpec(
        bad_windows=bad, of_windows=bad + more, cool_down_days=cool, max_incidents=most, budget_days=budget
    ),
    bad=st.integers(1, 4),
    more=st.integers(0, 3),
    cool=st.sampled_from([0.0, 0.5, 3.0, 14.0]),
    most=st.integers(0, 8),
    budget=st.sampled_from([10.0, 30.0, 365.0]),
)


def coin(rng: random.Random) -> list[bool]:
    """Bad by chance, each hour anew."""
    share = rng.choice([0.02, 0.5, 0.98])
    return [rng.random() < share for _ in range(HOURS)]


def spells(rng: random.Random) -> list[bool]:
    """Bad for a while, good for a while."""
    bad: list[bool] = []
    while len(bad) < HOURS:
        bad += [not (bad and bad[-1])] * rng.randint(1, 200)
    return bad[:HOURS]


def flutter(rng: random.Random) -> list[bool]:
    """Bad every few hours, the worst for K of N."""
    period = rng.randint(2, 7)
    return [hour % period == 0 for hour in range(HOURS)]


def as_delivered(rng: random.Random, most_late: int) -> list[int]:
    """Every window's number once to three times: late, out of order, and once more in order at the end."""
    late = [(hour + rng.uniform(0, most_late), hour) for hour in range(HOURS) for _ in range(rng.randint(1, 2))]
    return [hour for _, hour in sorted(late)] + list(range(HOURS))


def end_of(hour: int) -> datetime:
    return START + (hour + 1) * HOUR


def require_held(rule: BrakesSpec, incidents: Sequence[datetime]) -> None:
    """No two within the cool-down, and no span of the budget's length, wherever it begins, holds more than it."""
    cool_down, budget = timedelta(days=rule.cool_down_days), timedelta(days=rule.budget_days)
    ends = sorted(incidents)
    assert len(set(ends)) == len(ends)
    assert all(later - earlier >= cool_down for earlier, later in pairwise(ends))
    for begin in ends:
        assert sum(begin <= end <= begin + budget for end in ends) <= rule.max_incidents


def require_none_starved(rule: BrakesSpec, bad: Sequence[bool], incidents: Sequence[datetime]) -> None:
    """Every window that could have opened an incident has one, or the brakes name those that stand in its way."""
    for hour in range(HOURS):
        if bad[hour]:
            newest = list(bad[max(0, hour + 1 - rule.of_windows) : hour + 1])[::-1]
            assert not decide(rule, newest, incidents, end_of(hour)).release


@pytest.mark.parametrize("detector", [coin, spells, flutter])
@given(rule=rules, seed=st.integers(0, 2**32), most_late=st.sampled_from([0, 5, 48, 2000]))
@example(
    rule=BrakesSpec(bad_windows=1, of_windows=1, cool_down_days=0.5, max_incidents=3, budget_days=30.0),
    seed=0,
    most_late=2000,
)
@settings(max_examples=4, deadline=None)
def test_a_year_of_hourly_windows(detector: Detector, rule: BrakesSpec, seed: int, most_late: int) -> None:
    rng = random.Random(seed)
    bad = detector(rng)
    judged: list[int] = []
    incidents: list[datetime] = []
    for hour in as_delivered(rng, most_late):
        place = bisect_right(judged, hour)
        if judged[place - 1 : place] != [hour]:
            judged.insert(place, hour)
            place += 1
        newest = [bad[known] for known in reversed(judged[max(0, place - rule.of_windows) : place])]
        if bad[hour] and decide(rule, newest, incidents, end_of(hour)).release:
            incidents.append(end_of(hour))
    require_held(rule, incidents)
    require_none_starved(rule, bad, incidents)
    if rule.max_incidents and sum(bad) > HOURS / 2 and rule.bad_windows == 1:
        assert incidents, "brakes that never release would hold too"


def test_a_window_judged_late_does_not_overdraw_the_budget_of_those_after_it() -> None:
    rule = BrakesSpec(bad_windows=1, of_windows=1, cool_down_days=1.0, max_incidents=3, budget_days=30.0)
    later = [START + days * DAY for days in (10, 12, 14)]
    assert decide(rule, [True], later, START + 8 * DAY).reason == "budget spent: 3 incidents in 30 days, 3 allowed"
    assert decide(rule, [True], later[:2], START + 8 * DAY).release
    assert decide(rule, [True], later, START - 17 * DAY).release, "30 days hold this one and two of the others"
