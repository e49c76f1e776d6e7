"""What is asked of the ledger: decisions, what served when, checks, costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.ledger import SYSTEM, CheckRecord, Fact, Ledger, Token, journal
from millrace.window import Window
from tests.ledgers import INCIDENT, START, WEEK, week


def holding(ledger: Ledger, name: str = "tiny", run: str = "run-1") -> Token:
    token = ledger.slots.take(name, "serving", run)
    assert isinstance(token, Token)
    return token


# Decisions


def test_a_decision_said_twice_is_kept_once(ledger: Ledger) -> None:
    before = datetime.now(UTC)
    first = ledger.decide("tiny", "promoted", "version 3", {"b": 1, "a": [1, 2]})
    assert ledger.decide("tiny", "promoted", "version 3", {"a": [1, 2], "b": 1}, actor="run-2") == first
    ledger.decide("tiny", "promoted", "version 3", {"b": 2})
    ledger.decide("tiny", "refused", "version 4", {})
    ledger.decide("other", "promoted", "version 3", {"b": 1, "a": [1, 2]})
    found = ledger.decisions("tiny", "promoted")
    assert [(decision.subject, decision.detail, decision.actor) for decision in found] == [
        ("version 3", {"a": [1, 2], "b": 1}, SYSTEM),
        ("version 3", {"b": 2}, SYSTEM),
    ]
    assert [decision.subject for decision in ledger.decisions("tiny", "refused")] == ["version 4"]
    assert len(ledger.decisions("other", "promoted")) == 1
    assert before <= found[0].at <= datetime.now(UTC)


def test_what_is_once_a_run_is_once_a_pipeline(ledger: Ledger) -> None:
    for name in ("tiny", "other"):
        for said in (1, 2):
            ledger.decide(name, "trained", "x", {"said": said}, once="run-1")
    assert [(entry.pipeline, entry.detail["said"]) for entry in ledger.entries()] == [("tiny", 1), ("other", 1)]


# What serves


class Clock(datetime):
    shows = START

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return cls.shows


steps = st.lists(
    st.tuples(st.sampled_from(["tiny", "other"]), st.sampled_from(["1", "2", "3"]), st.integers(-2, 5)), max_size=8
)


@given(steps=steps)
@settings(max_examples=15, deadline=None)
def test_what_served_at_any_moment_is_what_a_replay_says(
    new_url: Callable[[], str], steps: list[tuple[str, str, int]]
) -> None:
    ledger = Ledger(new_url())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "datetime", Clock)
        Clock.shows = newest = START
        tokens = {name: holding(ledger, name) for name in ("tiny", "other")}
        replay: list[tuple[datetime, str, str]] = []
        for name, version, hours in steps:
            Clock.shows += timedelta(hours=hours)
            newest = max(newest, Clock.shows)
            cause = ledger.decide(name, "promoted", version, {"at": newest.isoformat()}, token=tokens[name])
            ledger.serve(name, version, f"sha256:{version}", because=cause, token=tokens[name])
            replay.append((newest, name, version))
    moments = [
        None,
        START - WEEK,
        *(at - gap for at, *_ in replay[::2] for gap in (timedelta(0), timedelta(microseconds=1))),
    ]
    for name in ("tiny", "other"):
        for moment in moments:
            served = [version for at, of, version in replay if of == name and (moment is None or at <= moment)]
            entry = ledger.serving(name, moment)
            assert (entry and entry.subject) == (served[-1] if served else None)
            if entry is not None:
                assert entry.detail["package"] == f"sha256:{entry.subject}"
                cause = ledger.entry(entry.detail["because"])
                assert (cause.kind, cause.subject) == ("promoted", entry.subject)
    last = {name: version for _, name, version in replay}
    assert {entry.pipeline: entry.subject for entry in ledger.all_serving()} == last
    ledger.close()


def test_said_again_of_the_version_that_serves_it_is_no_news(ledger: Ledger) -> None:
    token = holding(ledger)
    cause = ledger.decide("tiny", "promoted", "1", {}, token=token)
    first = ledger.serve("tiny", "1", "sha256:1", because=cause, token=token)
    assert ledger.serve("tiny", "1", "sha256:1", because=cause, token=token) == first
    assert ledger.serve("tiny", "1", "sha256:2", because=cause, token=token) != first, "another package under its name"
    assert first.actor == "run-1"


# Checks


def record(number: int, bad: bool = True, version: str = "3") -> CheckRecord:
    return CheckRecord("tiny", version, week(number), bad, ({"gate": "drift", "passed": not bad},))


def test_checks_are_the_newest_first_up_to_a_moment(ledger: Ledger) -> None:
    for number in (1, 0, 3, 2):
        ledger.record_check(record(number), "run-1")
    ledger.record_check(replace(record(2), pipeline="other"), "run-1")
    assert ledger.checks("tiny", START + 9 * WEEK, 3) == [record(3), record(2), record(1)]
    assert ledger.checks("tiny", week(1).end, 9) == [record(1), record(0)]
    assert ledger.checks("tiny", week(1).end - timedelta(seconds=1), 9) == [record(0)]
    assert ledger.checks("tiny", START, 9) == []
    assert ledger.checks("tiny", START + 9 * WEEK, 0) == []


def test_a_run_judges_a_window_once(ledger: Ledger) -> None:
    ledger.record_check(record(0, bad=True), "run-1")
    ledger.record_check(record(0, bad=False), "run-1")
    assert ledger.checks("tiny", week(0).end, 9) == [record(0, bad=True)], "a run that goes on finds its own"


def test_a_window_judged_again_is_replaced(ledger: Ledger) -> None:
    ledger.record_check(record(0, bad=True), "run-1")
    ledger.record_check(record(0, bad=False), "run-2")
    assert ledger.checks("tiny", week(0).end, 9) == [record(0, bad=False)]


def test_a_window_judged_for_two_versions_is_one_of_n(ledger: Ledger) -> None:
    """Else one bad week, checked before and after a promotion, would count as two."""
    ledger.record_check(record(0, version="3", bad=False), "run-1")
    ledger.record_check(record(1, version="3"), "run-2")
    ledger.record_check(record(1, version="4"), "run-3")
    found = ledger.checks("tiny", week(1).end, 2)
    assert found == [record(1, version="4"), record(0, bad=False)], "the newest judgement of each window"


windows = st.tuples(st.integers(0, 200), st.sampled_from([1, 7, 30, 31])).map(
    lambda pair: Window(START + timedelta(days=pair[0]), START + timedelta(days=sum(pair)))
)


@given(judged=st.lists(windows, max_size=8), until=st.integers(0, 240), limit=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_checks_are_what_a_list_says(new_url: Callable[[], str], judged: list[Window], until: int, limit: int) -> None:
    """Also where windows of several lengths lie over each other."""
    ledger = Ledger(new_url())
    for number, window in enumerate(judged):
        ledger.record_check(CheckRecord("tiny", str(number), window, True, ()), f"run-{number}")
    moment = START + timedelta(days=until)
    newest = {window: str(number) for number, window in enumerate(judged)}
    expected = sorted((window for window in newest if window.end <= moment), reverse=True)[:limit]
    found = ledger.checks("tiny", moment, limit)
    assert [(check.window, check.version) for check in found] == [(window, newest[window]) for window in expected]
    ledger.close()


def test_the_newest_checks_are_found_without_reading_all(ledger: Ledger) -> None:
    ledger.append(
        *(
            Fact("tiny", "window_checked", week(number).key, {"version": "3", "bad": True, "verdicts": []})
            for number in range(2000)
        )
    )
    read: list[object] = []
    original = journal.entries_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "entries_of", lambda rows: read.extend(found := original(rows)) or found)
        assert len(ledger.checks("tiny", week(1500).end, 5)) == 5
    assert len(read) == 5


# Costs


def test_costs_add_up_by_run(ledger: Ledger) -> None:
    for part, amount in (("stage", 0.25), ("train", 1.5)):
        ledger.spend("tiny", part, "run-1", seconds=60.0, amount=amount, currency="USD")
    ledger.spend("tiny", "train", "run-2", seconds=1.0, amount=0.125, currency="USD")
    ledger.spend("other", "train", "run-1", seconds=1.0, amount=9.0, currency="USD")
    assert ledger.spent("tiny") == {"run-1": 1.75, "run-2": 0.125}
    assert ledger.spent("nobody") == {}


def test_records_survive_reopening(url: str) -> None:
    def facts(ledger: Ledger) -> list[object]:
        return [ledger.outbox.of("tiny"), ledger.checks("tiny", week(0).end, 9), ledger.entries(), ledger.spent("tiny")]

    first = Ledger(url)
    first.outbox.open(INCIDENT)
    first.record_check(record(0), "run-1")
    first.decide("tiny", "promoted", "version 3", {"at": START})
    first.spend("tiny", "train", "run-1", seconds=1.0, amount=2.0, currency="USD")
    before = facts(first)
    first.close()
    second = Ledger(url)
    assert facts(second) == before
    second.close()
    assert facts(second) == before, "a ledger that was closed opens again"
    second.close()
