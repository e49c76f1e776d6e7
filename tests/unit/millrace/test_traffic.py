"""The ring: exact shares, and nobody moves who need not."""

from __future__ import annotations

import itertools
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConfigError
from millrace.traffic import RING, Division, place

VERSIONS = "abcde"


@st.composite
def shares(draw: st.DrawFn) -> dict[str, float]:
    """Some versions, each with a share; 1 in all."""
    parts = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=5).filter(any))
    return {version: part / sum(parts) for version, part in zip(VERSIONS, parts, strict=False)}


def differing(one: Division, other: Division) -> dict[tuple[str, str], int]:
    """(version before, version after) -> places for which they differ."""
    ends = sorted({arc.end for arc in (*one.arcs, *other.arcs)})
    found: dict[tuple[str, str], int] = {}
    for start, end in itertools.pairwise([0, *ends]):
        before, after = (next(arc.version for arc in division.arcs if arc.end > start) for division in (one, other))
        if before != after:
            found[before, after] = found.get((before, after), 0) + end - start
    return found


@given(steps=st.lists(shares(), min_size=1, max_size=8))
def test_shares_are_exact_and_only_what_must_moves(steps: list[dict[str, float]]) -> None:
    division = Division.whole("a")
    for wanted in steps:
        moved = division.moved(wanted)
        before, after = division.shares, moved.shares
        assert moved.arcs[-1].end == RING
        assert set(after) <= set(wanted)
        for version, share in wanted.items():
            assert abs(after.get(version, 0.0) - share) <= 1.5 / RING
        changed = differing(division, moved)
        for giver, taker in changed:
            assert before[giver] > after.get(giver, 0.0), "nobody leaves a version whose share does not shrink"
            assert after[taker] > before.get(taker, 0.0), "nobody joins a version whose share does not grow"
        grown = sum(max(0.0, share - before.get(version, 0.0)) for version, share in after.items())
        assert sum(changed.values()) == round(grown * RING), "as few as can be"
        assert all(one.version != other.version for one, other in itertools.pairwise(moved.arcs))
        assert Division.from_json(json.loads(json.dumps(moved.as_json()))) == moved
        assert moved.moved(after) == moved
        division = moved


def test_the_realised_share_is_the_one_asked_for() -> None:
    division = Division.whole("1").moved({"1": 0.9, "2": 0.1})
    cohorts = [str(uuid.UUID(int=number * 7919)) for number in range(100_000)]
    share = sum(division.version_of(cohort) == "2" for cohort in cohorts) / len(cohorts)
    assert abs(share - 0.1) < 0.005


def test_a_canary_that_grows_keeps_those_it_has() -> None:
    division, met = Division.whole("1"), set[str]()
    cohorts = [f"customer-{number}" for number in range(5000)]
    for share in (0.01, 0.05, 0.25, 0.5, 1.0):
        division = division.moved({"1": 1 - share, "2": share})
        now = {cohort for cohort in cohorts if division.version_of(cohort) == "2"}
        assert met <= now
        met = now
    assert met == set(cohorts)


def test_a_place_does_not_depend_on_the_process() -> None:
    assert place("customer-1") == 143_485
    assert 0 <= place("\ud800") < RING


@pytest.mark.parametrize("bad", [{}, {"1": 0.5}, {"1": 1.2, "2": -0.2}, {"1": float("nan")}, {"1": 0.7, "2": 0.4}])
def test_shares_that_are_no_division_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="1 in all"):
        Division.whole("1").moved(bad)
