"""Incidents: the same fact is one, the first answer stays, the budget holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from millrace.errors import DigestError, UnknownNameError
from millrace.ledger import Incident, Ledger
from millrace.ledger.outbox import ANSWERED
from millrace.window import Window
from tests.ledgers import INCIDENT, at_once, engine, processes_at_once, spend_budget, tamper, week


def test_the_same_fact_is_one_incident(ledger: Ledger) -> None:
    again = replace(INCIDENT, evidence={"reasons": ["another run's words"]})
    assert ledger.outbox.open(INCIDENT) == [True]
    assert ledger.outbox.open(again, again) == [False, False]
    assert ledger.outbox.of("tiny") == [INCIDENT], "the first record stays"


def test_the_same_fact_twice_in_one_call_is_one_incident(ledger: Ledger) -> None:
    other = replace(INCIDENT, window=week(1))
    assert ledger.outbox.open(INCIDENT, other, INCIDENT) == [True, True, False]
    assert ledger.outbox.unanswered() == [INCIDENT, other]


@pytest.mark.parametrize("change", [{"pipeline": "other"}, {"version": "4"}, {"kind": "quality"}, {"window": week(1)}])
def test_another_fact_is_another_incident(change: dict[str, Any], ledger: Ledger) -> None:
    other = replace(INCIDENT, **change)
    assert other.key != INCIDENT.key
    assert ledger.outbox.open(INCIDENT, other) == [True, True]
    assert ledger.outbox.find(other.key) == other


def test_a_key_depends_on_the_fact_alone() -> None:
    assert replace(INCIDENT, evidence={}, response="run-1", outcome="failed").key == INCIDENT.key
    assert INCIDENT.key.startswith("incident-")
    assert len(INCIDENT.key) <= 80


def test_incidents_are_listed_by_event_time(ledger: Ledger) -> None:
    ledger.outbox.open(*(replace(INCIDENT, window=week(number)) for number in (2, 0, 1)))
    ledger.outbox.open(replace(INCIDENT, pipeline="other"))
    assert [incident.window for incident in ledger.outbox.of("tiny")] == [week(0), week(1), week(2)]


def test_the_first_answer_wins_and_the_incident_leaves_the_outbox(ledger: Ledger) -> None:
    other = replace(INCIDENT, pipeline="other")
    ledger.outbox.open(INCIDENT, other)
    assert ledger.outbox.unanswered("tiny") == [INCIDENT]
    assert ledger.outbox.unanswered() == [INCIDENT, other]
    assert ledger.outbox.answer(INCIDENT.key, "run-1") == "run-1"
    assert ledger.outbox.answer(INCIDENT.key, "run-2") == "run-1"
    assert ledger.outbox.unanswered("tiny") == []
    assert ledger.outbox.unanswered() == [other]
    assert ledger.outbox.open(INCIDENT) == [False], "an answered fact does not come back"
    assert ledger.outbox.unanswered("tiny") == []
    ledger.outbox.close(INCIDENT.key, "failed")
    ledger.outbox.close(INCIDENT.key, "promoted")
    ledger.outbox.close(INCIDENT.key, "promoted")
    assert ledger.outbox.find(INCIDENT.key) == replace(INCIDENT, response="run-1", outcome="promoted")
    assert len(ledger.entries("tiny", "incident_closed")) == 2, "said again, it is no news"
    assert ledger.outbox.of("other") == [other]


def test_an_incident_that_does_not_exist_is_not_answered(ledger: Ledger) -> None:
    assert ledger.outbox.find("incident-none") is None
    for say in (ledger.outbox.answer, ledger.outbox.close):
        with pytest.raises(UnknownNameError, match="no incident 'incident-none' in the ledger"):
            say("incident-none", "run-1")
    assert ledger.entries() == []


def test_of_answers_given_at_once_one_wins_and_everybody_is_told_which(url: str, ledger: Ledger) -> None:
    ledger.outbox.open(INCIDENT)
    told = at_once(url, lambda mine, number: mine.outbox.answer(INCIDENT.key, f"run-{number}"))
    assert len(set(told)) == 1
    assert ledger.outbox.find(INCIDENT.key).response == told[0]  # type: ignore[union-attr]
    assert len(ledger.entries("tiny", ANSWERED)) == 1


def test_of_workers_that_find_the_same_fact_one_opens_the_incident(url: str, ledger: Ledger) -> None:
    opened = at_once(url, lambda mine, number: mine.outbox.open(INCIDENT)[0])
    assert sorted(opened) == [False, False, False, True]
    assert ledger.outbox.of("tiny") == [INCIDENT]


def test_the_question_is_asked_with_the_ends_of_all_windows(ledger: Ledger) -> None:
    asked: list[list[datetime]] = []

    def allowed(ends: Sequence[datetime]) -> bool:
        asked.append(sorted(ends))
        return len(ends) < 2

    opened = [ledger.outbox.open_when(replace(INCIDENT, window=week(number)), allowed) for number in (1, 0, 2)]
    assert opened == [True, True, False]
    assert asked == [[], [week(1).end], [week(0).end, week(1).end]]
    assert [incident.window for incident in ledger.outbox.unanswered()] == [week(1), week(0)]
    assert ledger.outbox.open_when(INCIDENT, lambda ends: True) is False, "it is there already"


def test_processes_at_once_never_overspend(url: str, ledger: Ledger) -> None:
    opened = processes_at_once(url, spend_budget)
    assert sum(map(sum, opened)) == 3
    assert len(ledger.outbox.of("tiny")) == 3


def test_a_storm_of_ten_thousand_is_taken_and_what_is_open_is_found_at_once(ledger: Ledger) -> None:
    hour = timedelta(hours=1)
    start = datetime(2020, 1, 1, tzinfo=UTC)
    storm = [
        Incident("tiny", "3", "drift", Window(start + number * hour, start + (number + 1) * hour), {})
        for number in range(10_000)
    ]
    assert all(ledger.outbox.open(*storm))
    assert not any(ledger.outbox.open(*reversed(storm))), "duplicated and in another order"
    for incident in storm[:20]:
        ledger.outbox.answer(incident.key, "run-1")
    assert [incident.key for incident in ledger.outbox.unanswered()] == [incident.key for incident in storm[20:]]
    assert ledger.verify()[0] == 10_020


def test_looking_for_the_open_ones_reads_none_of_the_answered(url: str, ledger: Ledger) -> None:
    ledger.outbox.open(*(replace(INCIDENT, window=week(number)) for number in range(50)))
    for number in range(50):
        ledger.outbox.answer(replace(INCIDENT, window=week(number)).key, "run-1")
    with engine(url).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM unanswered")) == 0
        if connection.dialect.name == "sqlite":
            query = "SELECT * FROM entries WHERE sequence IN (SELECT sequence FROM unanswered) ORDER BY sequence"
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
            assert not [step for step in plan if step.startswith("SCAN entries")], plan
    started = time.process_time()
    assert ledger.outbox.unanswered() == []
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "change", ["DELETE FROM unanswered", "INSERT INTO unanswered SELECT max(sequence), 'tiny' FROM entries"]
)
def test_an_index_of_the_open_ones_that_was_altered_is_found(url: str, ledger: Ledger, change: str) -> None:
    ledger.outbox.open(INCIDENT, replace(INCIDENT, window=week(1)))
    ledger.outbox.answer(INCIDENT.key, "run-1")
    ledger.verify()
    tamper(url, change)
    with pytest.raises(DigestError, match="the outbox is not what the journal says at entry"):
        ledger.verify()


def test_an_incident_that_opens_while_the_ledger_is_verified_is_no_damage(url: str, ledger: Ledger) -> None:
    ledger.outbox.open(INCIDENT)
    opened: list[bool] = []

    def open_another(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM unanswered" in statement and not opened:
            with closing(Ledger(url)) as other:
                opened.extend(other.outbox.open(replace(INCIDENT, window=week(1))))

    assert ledger._database._engine is not None
    sa.event.listen(ledger._database._engine, "before_cursor_execute", open_another)
    assert ledger.verify()[0] == 1
    assert opened == [True]
    assert ledger.verify()[0] == 2
