"""The ledger forgets nothing and says nothing twice, also when several processes write at once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from millrace.errors import ServiceError, SettingsError, UnknownNameError
from millrace.ledger import CheckRecord, Incident, Ledger
from millrace.window import Window

START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def week(number: int) -> Window:
    return Window(START + number * WEEK, START + (number + 1) * WEEK)


INCIDENT = Incident("tiny", "3", "drift", week(0), {"reasons": ["moved"]})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/ledger.db"


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    made = Ledger(url)
    yield made
    made.close()


def at_once(url: str, work: Callable[[Ledger, int], Any], workers: int = 4) -> list[Any]:
    """`work` by several workers, each with a ledger of its own, all starting at the same time."""
    barrier = threading.Barrier(workers)

    def one(number: int) -> Any:
        ledger = Ledger(url)
        barrier.wait(20)
        try:
            return work(ledger, number)
        finally:
            ledger.close()

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(workers)))


def test_building_one_opens_nothing(url: str, tmp_path: Path) -> None:
    Ledger(url)
    assert list(tmp_path.iterdir()) == []


# Incidents


def test_the_same_fact_is_one_incident(ledger: Ledger) -> None:
    assert ledger.open_incident(INCIDENT) is True
    again = replace(INCIDENT, evidence={"reasons": ["another run's words"]})
    assert ledger.open_incident(again) is False
    assert ledger.incidents("tiny") == [INCIDENT], "the first record stays"


@pytest.mark.parametrize("change", [{"pipeline": "other"}, {"version": "4"}, {"kind": "quality"}, {"window": week(1)}])
def test_another_fact_is_another_incident(change: dict[str, Any], ledger: Ledger) -> None:
    other = replace(INCIDENT, **change)
    assert other.key != INCIDENT.key
    assert [ledger.open_incident(INCIDENT), ledger.open_incident(other)] == [True, True]
    assert ledger.incident(other.key) == other


def test_a_key_depends_on_the_fact_alone() -> None:
    assert replace(INCIDENT, evidence={}, response="run-1", outcome="failed").key == INCIDENT.key
    assert INCIDENT.key.startswith("incident-")
    assert len(INCIDENT.key) <= 80, "the column's width"


def test_incidents_are_listed_by_event_time(ledger: Ledger) -> None:
    for number in (2, 0, 1):
        ledger.open_incident(replace(INCIDENT, window=week(number)))
    ledger.open_incident(replace(INCIDENT, pipeline="other"))
    assert [incident.window for incident in ledger.incidents("tiny")] == [week(0), week(1), week(2)]


def test_the_first_answer_wins_and_the_incident_leaves_the_outbox(ledger: Ledger) -> None:
    ledger.open_incident(INCIDENT)
    assert ledger.unanswered("tiny") == [INCIDENT]
    assert ledger.answer_incident(INCIDENT.key, "run-1") == "run-1"
    assert ledger.answer_incident(INCIDENT.key, "run-2") == "run-1"
    assert ledger.unanswered("tiny") == []
    ledger.close_incident(INCIDENT.key, "promoted")
    assert ledger.incident(INCIDENT.key) == replace(INCIDENT, response="run-1", outcome="promoted")


def test_an_incident_that_does_not_exist_is_not_answered(ledger: Ledger) -> None:
    assert ledger.incident("incident-none") is None
    with pytest.raises(UnknownNameError, match="no incident 'incident-none' in the ledger"):
        ledger.answer_incident("incident-none", "run-1")


def test_of_answers_given_at_once_one_wins_and_everybody_is_told_which(url: str, ledger: Ledger) -> None:
    ledger.open_incident(INCIDENT)
    told = at_once(url, lambda mine, number: mine.answer_incident(INCIDENT.key, f"run-{number}"))
    assert len(set(told)) == 1
    assert ledger.incident(INCIDENT.key).response == told[0]  # type: ignore[union-attr]


def test_of_workers_that_find_the_same_fact_one_opens_the_incident(url: str, ledger: Ledger) -> None:
    opened = at_once(url, lambda mine, number: mine.open_incident(INCIDENT))
    assert sorted(opened) == [False, False, False, True]
    assert ledger.incidents("tiny") == [INCIDENT]


# Checks


def record(number: int, bad: bool = True, version: str = "3") -> CheckRecord:
    return CheckRecord("tiny", version, week(number), bad, ({"gate": "drift", "passed": not bad},))


def test_checks_are_the_newest_first_up_to_a_moment(ledger: Ledger) -> None:
    for number in (1, 0, 3, 2):
        ledger.record_check(record(number))
    ledger.record_check(replace(record(2), pipeline="other"))
    assert ledger.checks("tiny", START + 9 * WEEK, 3) == [record(3), record(2), record(1)]
    assert ledger.checks("tiny", week(1).end, 9) == [record(1), record(0)]
    assert ledger.checks("tiny", START, 9) == []


def test_a_window_judged_again_is_replaced(ledger: Ledger) -> None:
    ledger.record_check(record(0, bad=True))
    ledger.record_check(record(0, bad=False))
    assert ledger.checks("tiny", week(0).end, 9) == [record(0, bad=False)]


def test_a_window_judged_for_two_versions_is_one_of_n(ledger: Ledger) -> None:
    """Else one bad week, checked before and after a promotion, would count as two."""
    ledger.record_check(record(0, version="3", bad=False))
    ledger.record_check(record(1, version="3"))
    ledger.record_check(record(1, version="4"))
    found = ledger.checks("tiny", week(1).end, 2)
    assert found == [record(1, version="4"), record(0, bad=False)], "the newest judgement of each window"


# Decisions and costs


def test_a_decision_said_twice_is_kept_once(ledger: Ledger) -> None:
    before = datetime.now(UTC)
    for _ in range(2):
        ledger.decide("tiny", "promoted", "version 3", {"b": 1, "a": [1, 2]})
    ledger.decide("tiny", "promoted", "version 3", {"b": 2})
    ledger.decide("tiny", "refused", "version 4", {})
    ledger.decide("other", "promoted", "version 3", {"b": 1, "a": [1, 2]})
    found = ledger.decisions("tiny")
    assert [(decision.kind, decision.subject, decision.detail) for decision in found] == [
        ("promoted", "version 3", {"a": [1, 2], "b": 1}),
        ("promoted", "version 3", {"b": 2}),
        ("refused", "version 4", {}),
    ]
    assert [decision.subject for decision in ledger.decisions("tiny", "refused")] == ["version 4"]
    assert before <= found[0].at <= datetime.now(UTC)


def test_costs_add_up_by_run(ledger: Ledger) -> None:
    for part, amount in (("stage", 0.25), ("train", 1.5)):
        ledger.spend("tiny", part, "run-1", seconds=60.0, amount=amount, currency="USD")
    ledger.spend("tiny", "train", "run-2", seconds=1.0, amount=0.125, currency="USD")
    ledger.spend("other", "train", "run-1", seconds=1.0, amount=9.0, currency="USD")
    assert ledger.spent("tiny") == {"run-1": 1.75, "run-2": 0.125}
    assert ledger.spent("nobody") == {}


def test_records_survive_reopening(url: str) -> None:
    first = Ledger(url)
    first.open_incident(INCIDENT)
    first.record_check(record(0))
    first.decide("tiny", "promoted", "version 3", {"at": START})
    first.spend("tiny", "train", "run-1", seconds=1.0, amount=2.0, currency="USD")
    facts = (
        first.incidents("tiny"),
        first.checks("tiny", week(0).end, 9),
        first.decisions("tiny"),
        first.spent("tiny"),
    )
    first.close()
    second = Ledger(url)
    assert facts == (
        second.incidents("tiny"),
        second.checks("tiny", week(0).end, 9),
        second.decisions("tiny"),
        second.spent("tiny"),
    )
    second.close()


def test_workers_that_are_the_first_at_once_lose_nothing(url: str, ledger: Ledger) -> None:
    """All of them find a database without tables."""

    def work(mine: Ledger, number: int) -> None:
        for turn in range(5):
            mine.decide("tiny", "noted", f"{number}-{turn}", {})

    at_once(url, work, workers=6)
    assert len(ledger.decisions("tiny")) == 30


# Databases that cannot be opened


def refusal(url: str) -> ServiceError:
    ledger = Ledger(url)
    with pytest.raises(ServiceError) as caught:
        ledger.incidents("tiny")
    ledger.close()
    return caught.value


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refusal(f"sqlite:///{tmp_path}/file/ledger.db")
    assert error.what == f"the ledger at sqlite:///{tmp_path}/file/ledger.db does not answer"
    assert error.next == "check MILLRACE_LEDGER_URL and that the database runs"


def test_a_path_that_is_a_folder_is_told(tmp_path: Path) -> None:
    assert "unable to open database file" in (refusal(f"sqlite:///{tmp_path}").got or "")


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database at all" * 100)
    assert "not a database" in (refusal(f"sqlite:///{tmp_path}/ledger.db").got or "")


def test_the_password_is_not_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise sqlite3.OperationalError("could not connect")

    # The driver of PostgreSQL is not installed here; what it raises when nobody answers is of the same class.
    nobody = sa.create_engine("sqlite://", creator=refuse)
    monkeypatch.setattr(sa, "create_engine", lambda *_, **__: nobody)
    error = refusal("postgresql://user:hush@db:5432/ledger")
    assert "hush" not in str(error)
    assert error.what == "the ledger at postgresql://user:***@db:5432/ledger does not answer"
    assert error.got == "'could not connect'"
    assert error.retryable


@pytest.mark.parametrize("url", ["no url of user:hush@host", "nowhere://user:hush@host/db"])
def test_a_url_that_is_none_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Ledger(url).incidents("tiny")
    assert "hush" not in str(caught.value)
    assert caught.value.next == "correct MILLRACE_LEDGER_URL, or install its driver"
