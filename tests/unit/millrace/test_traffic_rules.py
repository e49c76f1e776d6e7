"""Which version answers whom: pins before the canary before the division, and nobody moves who need not."""

from __future__ import annotations

import itertools
import json
import random
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConfigError
from millrace.traffic import Division
from millrace.traffic_rules import STICKY, TrafficChange, TrafficRules, VersionShare

VERSIONS = st.sampled_from("abcd")
SHARES = st.builds(VersionShare, VERSIONS, st.floats(0, 1))
NAMES = st.text("abc0-é", min_size=1, max_size=8)


@st.composite
def divisions(draw: st.DrawFn) -> Division:
    parts = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=4).filter(any))
    return Division.whole("a").moved({v: part / sum(parts) for v, part in zip("abcd", parts, strict=False)})


RULES = st.builds(
    TrafficRules,
    divisions(),
    st.sampled_from(STICKY),
    st.dictionaries(NAMES, VERSIONS, max_size=3),
    st.none() | SHARES,
    st.none() | SHARES,
)


def ids(count: int) -> list[str]:
    source = random.Random(7)
    return [uuid.UUID(int=source.getrandbits(128)).hex for _ in range(count)]


@given(rules=RULES)
def test_rules_survive_json(rules: TrafficRules) -> None:
    found = TrafficRules.from_json(json.loads(json.dumps(rules.as_json())))
    assert found == rules
    assert found.digest == rules.digest
    # A text of JSON as the ledger keeps it, with its keys in order, is the same too.
    assert TrafficRules.from_json(json.loads(json.dumps(rules.as_json(), sort_keys=True))) == rules


@given(
    rules=RULES, customer=NAMES, session=st.just("") | NAMES, request_id=NAMES, draw=st.floats(0, 1, exclude_max=True)
)
def test_a_pin_goes_before_the_canary_before_the_division(
    rules: TrafficRules, customer: str, session: str, request_id: str, draw: float
) -> None:
    found = rules.version_of(customer, session, request_id, draw)
    assert found in rules.answering
    if customer in rules.pins:
        assert found == rules.pins[customer]
    elif rules.canary is not None and draw < rules.canary.share:
        assert found == rules.canary.version
    else:
        assert found == rules.division.version_of(rules.cohort(customer, session, request_id))
    assert rules.for_replicas("a").version_of(customer, session, request_id, draw) == found


@given(rules=RULES, shares=divisions(), cohorts=st.lists(NAMES, max_size=20))
def test_nobody_leaves_a_version_whose_share_does_not_shrink(
    rules: TrafficRules, shares: Division, cohorts: list[str]
) -> None:
    changed = TrafficChange(shares=shares.shares).of(rules)
    before, after = rules.division.shares, changed.division.shares
    for cohort in cohorts:
        left, joined = rules.division.version_of(cohort), changed.division.version_of(cohort)
        if left != joined:
            assert before[left] > after.get(left, 0)
            assert after[joined] > before.get(joined, 0)
    assert (changed.pins, changed.canary, changed.shadow, changed.sticky) == (
        rules.pins, rules.canary, rules.shadow, rules.sticky,
    )  # fmt: skip


def test_who_stays_together() -> None:
    by_session = TrafficRules.only("1")
    by_customer, by_request = (TrafficRules(Division.whole("1"), sticky) for sticky in ("customer", "request"))
    assert by_session.cohort("acme", "", "r") == "acme"
    assert by_session.cohort("acme", "s", "r") != by_session.cohort("umbrella", "s", "r")
    assert by_session.cohort("", "s", "r") == by_session.cohort("", "s", "other")
    assert by_customer.cohort("acme", "s", "r") == by_customer.cohort("acme", "t", "q") == "acme"
    assert by_request.cohort("acme", "s", "r") == "r"
    # One's own machine is no customer: else a share would be all of its requests or none.
    for nobody in ("", "local"):
        assert by_session.cohort(nobody, "", "r") == by_customer.cohort(nobody, "s", "r") == "r"


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_the_realised_shares_are_those_asked_for(share: float) -> None:
    rules = TrafficChange(shares={"1": 1 - share, "2": share}, canary=VersionShare("3", 0.05)).of(
        TrafficRules.only("1")
    )
    draw = random.Random(3).random
    answered = [rules.version_of("", "", request_id, draw()) for request_id in ids(100_000)]
    assert abs(answered.count("3") / 100_000 - 0.05) < 0.005
    rest = [version for version in answered if version != "3"]
    assert abs(rest.count("2") / len(rest) - share) < 0.005


def test_a_canarys_draws_know_nothing_of_the_cohort() -> None:
    rules = TrafficChange(canary=VersionShare("2", 0.5), pins={"acme": "1"}).of(TrafficRules.only("1"))
    draw = random.Random(4).random
    one = [rules.version_of("umbrella", "s", "r", draw()) for _ in range(2000)]
    assert abs(one.count("2") / 2000 - 0.5) < 0.05, "the same caller meets both versions"
    repeats = sum(a == b for a, b in itertools.pairwise(one))
    assert abs(repeats / 1999 - 0.5) < 0.05, "and the next draw does not know the last"
    assert {rules.version_of("acme", "s", "r", draw()) for _ in range(200)} == {"1"}


def test_changes_are_put_on_what_there_is() -> None:
    rules = TrafficRules.only("6")
    rules = TrafficChange(shares={"7": 0.1, "6": 0.9}, pins={"acme": "7"}).of(rules)
    assert rules.division.shares == pytest.approx({"7": 0.1, "6": 0.9})
    rules = TrafficChange(shadow=VersionShare("5", 0.2), sticky="request").of(rules)
    assert (rules.versions, rules.answering) == ({"5", "6", "7"}, {"6", "7"})
    assert rules.pins == {"acme": "7"}
    rules = TrafficChange(shadow=VersionShare("5", 0), pins={"acme": None}).of(rules)
    assert (rules.shadow, rules.pins) == (None, {})
    assert not rules.is_only("6")
    rules = TrafficChange(only="6").of(rules)
    assert rules.is_only("6")
    assert rules.for_replicas("6") == TrafficRules.only("6")


def test_nothing_is_left_but_the_only_one() -> None:
    rules = TrafficRules(
        Division.whole("6"), "session", {"acme": "7"}, VersionShare("8", 0.1), VersionShare("9", 0.1)
    )  # fmt: skip
    assert TrafficChange(only="7").of(rules).is_only("7")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (TrafficChange(shares={"6": 0.5}), "1 in all"),
        (TrafficChange(pins={"umbrella": None}), "umbrella is not pinned"),
    ],
)
def test_what_cannot_be_changed_is_told(change: TrafficChange, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change.of(TrafficRules.only("6"))


def test_a_share_is_from_0_to_1() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            VersionShare("6", share)


CHANGES = st.builds(
    TrafficChange,
    st.none() | VERSIONS,
    st.none() | divisions().map(lambda division: division.shares),
    st.none() | st.sampled_from(STICKY),
    st.dictionaries(NAMES, st.none() | VERSIONS, max_size=3),
    st.none() | SHARES,
    st.none() | SHARES,
)


@given(change=CHANGES)
def test_a_change_survives_json(change: TrafficChange) -> None:
    assert TrafficChange.from_json(json.loads(json.dumps(change.as_json()))) == change


@pytest.mark.parametrize(
    "damage",
    [
        {"division": []},
        {"division": [[5, "1"]]},
        {"division": [[2_000_000, "1"]]},
        {"division": [[1_000_000, "1"], [1_000_000, "2"]]},
        {"sticky": "always"},
        {"pins": [["a"]]},
        {"canary": ["1", 2]},
    ],
)
def test_rules_that_are_none_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((ValueError, ConfigError)):
        TrafficRules.from_json(TrafficRules.only("1").as_json() | damage)


def test_shares_are_those_that_are_drawn() -> None:
    rules = TrafficChange(shares={"1": 0.75, "2": 0.25}).of(TrafficRules.only("1"))
    assert rules.shares == {"1": 0.75, "2": 0.25}
    for canary, expected in (("3", {"1": 0.6, "2": 0.2, "3": 0.2}), ("2", {"1": 0.6, "2": 0.4})):
        found = TrafficChange(canary=VersionShare(canary, 0.2)).of(rules).shares
        assert found == pytest.approx(expected)
