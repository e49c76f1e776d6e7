"""The journal forgets nothing, and shows what was done to it behind its back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from millrace.errors import ConfigError, DigestError, ServiceError
from millrace.ledger import Entry, Fact, Ledger, journal
from tests.ledgers import engine, note, processes_at_once, tamper

names = st.sampled_from(["tiny", "other"])
kinds = st.sampled_from(["noted", "promoted"])
texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=12)
details = st.dictionaries(texts, st.one_of(st.none(), st.booleans(), st.integers(), texts, st.lists(texts)), max_size=3)


class Clock(datetime):
    """A writer's clock, which goes as it likes."""

    shows = datetime(2024, 1, 1, tzinfo=UTC)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return cls.shows


class Journal(RuleBasedStateMachine):
    """Two writers, against a list in memory."""

    new_url: Callable[[], str]

    @initialize()
    def begin(self) -> None:
        url = type(self).new_url()
        self.ledgers = [Ledger(url), Ledger(url)]
        self.written: list[Entry] = []
        self.first: dict[tuple[str, str, str], Entry] = {}

    @rule(writer=st.integers(0, 1), name=names, kind=kinds, subject=texts, detail=details, facts=st.integers(1, 3))
    def append(self, writer: int, name: str, kind: str, subject: str, detail: dict[str, Any], facts: int) -> None:
        done = self.ledgers[writer].append(*[Fact(name, kind, subject, detail, f"actor-{writer}")] * facts)
        for entry, new in done:
            assert new
            assert (entry.pipeline, entry.kind, entry.subject, entry.detail) == (name, kind, subject, detail)
        self.written += [entry for entry, _ in done]

    @rule(writer=st.integers(0, 1), name=names, kind=kinds, once=st.sampled_from("ab"), detail=details)
    def append_once(self, writer: int, name: str, kind: str, once: str, detail: dict[str, Any]) -> None:
        fact = Fact(name, kind, "said", detail, once=once)
        said = self.ledgers[writer].append(fact, dataclasses.replace(fact, detail={"said": "again"}))
        before = self.first.get((name, kind, once))
        assert [new for _, new in said] == [before is None, False]
        self.first.setdefault((name, kind, once), said[0][0])
        assert {id(before): before} if before is None else said[0][0] == before
        assert said[1][0] == said[0][0], "the first stays"
        if before is None:
            self.written.append(said[0][0])

    @rule(hours=st.integers(-48, 48))
    def set_the_clock(self, hours: int) -> None:
        Clock.shows += timedelta(hours=hours)

    @invariant()
    def all_is_there_in_order(self) -> None:
        found = self.ledgers[0].entries()
        assert found == self.written
        assert [entry.sequence for entry in found] == list(range(1, len(found) + 1))
        assert [entry.at for entry in found] == sorted(entry.at for entry in found)
        assert self.ledgers[1].verify() == (len(found), found[-1].digest if found else journal.GENESIS)

    def teardown(self) -> None:
        for ledger in getattr(self, "ledgers", []):
            ledger.close()


def test_the_journal_is_a_list_that_only_grows(new_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "datetime", Clock)
    machine = type("Machine", (Journal,), {"new_url": staticmethod(new_url)})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    few = settings(max_examples=20, stateful_step_count=15, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(machine, settings=few)


def five(ledger: Ledger) -> list[Entry]:
    for number in range(5):
        ledger.append(Fact("tiny", "noted", f"number {number}", {"number": number}))
    return ledger.entries()


INSERTED = (
    "INSERT INTO entries SELECT {sequence}, at, pipeline, kind, subject, actor, detail, NULL, previous, digest "
    "FROM entries WHERE sequence = 3"
)


@pytest.mark.parametrize(
    ("statements", "entry"),
    [
        (["UPDATE entries SET detail = '{\"number\": 7}' WHERE sequence = 3"], 3),
        (["UPDATE entries SET actor = 'person:else' WHERE sequence = 1"], 1),
        (["UPDATE entries SET at = '2020-01-01 00:00:00.000000' WHERE sequence = 5"], 5),
        (["UPDATE entries SET digest = previous WHERE sequence = 4"], 4),
        (["UPDATE entries SET detail = 'no json' WHERE sequence = 2"], 2),
        (["DELETE FROM entries WHERE sequence = 3"], 3),
        (["DELETE FROM entries WHERE sequence = 1"], 1),
        (["DELETE FROM entries WHERE sequence = 3", "UPDATE entries SET sequence = 3 WHERE sequence = 4"], 3),
        ([f"UPDATE entries SET sequence = {to} WHERE sequence = {at}" for at, to in ((2, 9), (3, 2), (9, 3))], 2),
        ([INSERTED.format(sequence=6)], 6),
        ([INSERTED.format(sequence=0)], 1),
        ([INSERTED.format(sequence=-4)], 1),
    ],
    ids=[
        "detail", "actor", "time", "digest", "no json", "removed", "first removed", "removed and closed up", "swapped",
        "put at the end", "put before the first", "put far before",
    ],
)  # fmt: skip
def test_what_was_changed_is_named(url: str, ledger: Ledger, statements: list[str], entry: int) -> None:
    five(ledger)
    assert ledger.verify()[0] == 5
    tamper(url, *statements)
    with pytest.raises(DigestError, match=rf"^the ledger was changed at entry {entry}\n"):
        ledger.verify()


def test_a_removed_tail_is_found_by_whoever_remembers_the_newest_digest(url: str, ledger: Ledger) -> None:
    five(ledger)
    _, head = ledger.verify()
    ledger.append(Fact("tiny", "noted", "later", {}))
    assert ledger.verify(remembered=head)[0] == 6, "the chain has grown since"
    tamper(url, "DELETE FROM entries WHERE sequence > 4")
    assert ledger.verify()[0] == 4, "what is left is a chain"
    with pytest.raises(DigestError, match="the ledger lost entries"):
        ledger.verify(remembered=head)


def test_what_cannot_be_read_is_told_as_such(url: str, ledger: Ledger) -> None:
    five(ledger)
    tamper(url, "UPDATE entries SET detail = 'no json' WHERE sequence = 2")
    with pytest.raises(DigestError, match="an entry that cannot be read") as caught:
        ledger.entries("tiny")
    assert "--verify" in (caught.value.next or "")


@pytest.mark.parametrize("change", ["UPDATE entries SET actor = 'x'", "DELETE FROM entries", "DELETE FROM costs"])
def test_the_database_refuses_changes(url: str, ledger: Ledger, change: str) -> None:
    before = five(ledger)
    ledger.spend("tiny", "train", "run-1", seconds=1.0, amount=1.0, currency="USD")
    with engine(url).connect() as connection, pytest.raises(Exception, match="the ledger is append-only"):
        connection.exec_driver_sql(change)
    with pytest.raises(ServiceError, match="refuses a statement") as caught, ledger._database.write() as connection:
        connection.exec_driver_sql(change)
    assert "append-only" in (caught.value.got or "")
    assert ledger.entries() == before
    assert ledger.spent("tiny") == {"run-1": 1.0}


def test_facts_are_appended_all_or_none(ledger: Ledger) -> None:
    with pytest.raises(TypeError):
        ledger.append(Fact("tiny", "noted", "whole", {}), Fact("tiny", "noted", "broken", {("a", "b"): 1}))  # type: ignore[dict-item]
    assert ledger.entries() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("subject", "x" * 161), ("actor", "person:" + "y" * 200), ("kind", "k" * 41), ("pipeline", "p" * 64),
     ("actor", "person:\x00"), ("subject", "two\nlines"), ("subject", "\ud800")],
)  # fmt: skip
def test_a_name_that_one_database_would_not_take_is_refused_for_all(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot take the {name} of"):
        Fact(**{"pipeline": "tiny", "kind": "noted", "subject": "x", "detail": {}, "actor": "millrace", name: value})
    widths = {column: getattr(journal.ENTRIES.c[column].type, "length", None) for column in journal._WIDTHS}
    assert widths == journal._WIDTHS


def test_a_detail_comes_back_as_it_was(ledger: Ledger) -> None:
    detail = {"text": 'a "quote", \u2028, \x00, \ud800, 🌊', "number": 1e300, "list": [None, True, {"deep": -1}]}
    (entry, _), *_ = ledger.append(Fact("tiny", "noted", "x", detail))
    assert ledger.entries() == [entry]
    assert entry.detail == json.loads(json.dumps(detail))
    assert ledger.verify()[0] == 1


def test_entries_are_asked_for_by_kind_subject_and_time(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "datetime", Clock)
    Clock.shows = datetime(2024, 1, 1, tzinfo=UTC)
    for number in range(4):
        ledger.append(Fact("tiny", ("even", "odd")[number % 2], f"{number // 2}", {"number": number}))
        Clock.shows += timedelta(hours=1)
    ledger.append(Fact("other", "even", "0", {"number": 9}))

    def numbers(*arguments: str | None, **options: Any) -> list[int]:
        return [entry.detail["number"] for entry in ledger.entries(*arguments, **options)]

    assert numbers() == [0, 1, 2, 3, 9]
    assert numbers("tiny", "even") == [0, 2]
    assert numbers("tiny", "even", "odd") == [0, 1, 2, 3]
    assert numbers(None, "even", subject="0") == [0, 9]
    assert numbers("tiny", until=datetime(2024, 1, 1, 1, tzinfo=UTC)) == [0, 1]
    tokyo = timezone(timedelta(hours=9))
    assert numbers("tiny", until=datetime(2024, 1, 1, 10, tzinfo=tokyo)) == [0, 1], "the same moment"
    assert ledger.newest("tiny", "even", "odd").detail == {"number": 3}  # type: ignore[union-attr]
    until = datetime(2024, 1, 1, 10, tzinfo=tokyo)
    assert ledger.newest("tiny", "even", "odd", until=until).detail == {"number": 1}  # type: ignore[union-attr]
    assert ledger.newest("tiny", "none") is None
    third = ledger.entries()[2]
    assert ledger.entry(third.sequence) == third
    assert ledger.entry(99) is None


def test_processes_that_are_the_first_at_once_lose_nothing(blank_url: Callable[[], str]) -> None:
    """All of them find a database without tables."""
    url = blank_url()
    processes_at_once(url, note)
    ledger = Ledger(url)
    assert sorted(entry.subject for entry in ledger.entries()) == sorted(
        f"{number}-{turn}" for number in range(4) for turn in range(10)
    )
    assert ledger.verify()[0] == 40
    ledger.close()
