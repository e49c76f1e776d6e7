"""A database that somebody else wrote into: values, or an error of ours that names the entry; never a traceback."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st

from millrace.errors import DataError, DigestError, MillraceError, UnknownNameError
from millrace.ledger import CheckRecord, Fact, Incident, Ledger, journal
from millrace.ledger.tables import ENTRIES
from millrace.window import Window
from tasks.responses import find_incident
from tests.unit.fuzz.material import examples, mutated, texts, values

_WEEK = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 8, tzinfo=UTC))
_INCIDENT = Incident("tiny", "3", "drift", _WEEK, {"reasons": ["moved"]})
_COLUMNS = ["sequence", "at", "pipeline", "kind", "subject", "actor", "detail", "once", "previous", "digest"]
_LATER = datetime(2030, 1, 1, tzinfo=UTC)

#: What SQLite's columns hold whatever their declared type.
_cells = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=20),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(
        ["2024-99-99", "2024-01-01", "9999-12-31 23:59:59.999999", "[]", "null", "{}", "[" * 50_000, "NaN", "1e400"]
    ),
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a ledger with an entry of each kind that is read, and without what keeps it append-only."""
    path = tmp_path_factory.mktemp("filled") / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}")
    ledger.outbox.open(_INCIDENT)
    ledger.outbox.answer(_INCIDENT.key, "flow-1")
    ledger.outbox.close(_INCIDENT.key, "promoted")
    ledger.outbox.open(Incident("tiny", "3", "quality", _WEEK, {}))
    ledger.record_check(CheckRecord("tiny", "3", _WEEK, True, ({"check": "drift"},)), "run-1")
    token = ledger.slots.take("tiny", "serving", "run-1")
    assert not isinstance(token, str)
    because = ledger.decide("tiny", "promoted", "3", {"observed": 0.5})
    ledger.serve("tiny", "3", "digest", because=because, token=token)
    ledger.spend("tiny", "train", "run-1", seconds=1, amount=2, currency="USD")
    ledger.heartbeats.begin("run-1", "training", "tiny")
    ledger.close()
    with closing(sqlite3.connect(path)) as raw:
        for (trigger,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.commit()
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copy(path, folder))


def readings(ledger: Ledger) -> Iterator[Callable[[], Any]]:
    yield lambda: find_incident(ledger, _INCIDENT.key)
    yield lambda: ledger.outbox.of("tiny")
    yield ledger.outbox.unanswered
    yield lambda: ledger.entries("tiny")
    yield ledger.entries
    yield lambda: ledger.serving("tiny")
    yield ledger.all_serving
    yield lambda: ledger.traffic("tiny")
    yield lambda: ledger.entry(3)
    yield lambda: ledger.checks("tiny", _LATER, 5)
    yield lambda: ledger.slots.holder("tiny", "serving")
    yield lambda: ledger.spent("tiny")
    yield lambda: [(beat.is_gone, beat.is_seen_alive) for beat in ledger.heartbeats.all()]
    yield ledger.verify
    # Writers read what is there before they append to it.
    yield lambda: ledger.decide("tiny", "promoted", "4", {})
    yield lambda: ledger.slots.take("tiny", "serving", "run-2")
    yield lambda: ledger.outbox.open(Incident("tiny", "4", "drift", _WEEK, {}))


def assert_told(path: Path) -> list[MillraceError]:
    """Each question is answered or refused with an error of ours; those errors."""
    ledger = Ledger(f"sqlite:///{path}")
    told = []
    for ask in readings(ledger):
        try:
            ask()
        except MillraceError as error:
            assert len(str(error)) < 2000
            told.append(error)
    ledger.close()
    return told


@given(column=st.sampled_from(_COLUMNS), value=_cells, sequence=st.integers(1, 8))
@example(column="detail", value="{", sequence=1)
@example(column="detail", value="[" * 50_000, sequence=1)
@example(column="at", value="yesterday", sequence=3)
@example(column="sequence", value="abc", sequence=8)
@examples(2)
def test_any_cell_of_an_entry(filled: Path, column: str, value: Any, sequence: int) -> None:
    with copied(filled) as path:
        with closing(sqlite3.connect(path)) as raw:
            before = raw.execute("SELECT * FROM entries").fetchall()
            try:
                raw.execute(f"UPDATE entries SET {column} = ? WHERE sequence = ?", (value, sequence))
            except sqlite3.IntegrityError:  # the database itself refuses it
                return
            is_changed = raw.execute("SELECT * FROM entries").fetchall() != before
            raw.commit()
        assert any(isinstance(error, DigestError) for error in assert_told(path)) == is_changed


@given(data=st.data())
@examples(3)
def test_a_forged_entry_with_a_good_digest(filled: Path, data: st.DataObject) -> None:
    """Who can compute digests can write any detail; readers still find what they need, or say that it is not there."""
    with copied(filled) as path:
        engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)
        with engine.begin() as connection:
            rows = connection.execute(ENTRIES.select().order_by(ENTRIES.c.sequence)).all()
            row = dict(data.draw(st.sampled_from(rows))._mapping)
            if data.draw(st.booleans()):
                detail = data.draw(st.one_of(values, mutated(json.loads(row["detail"]))))
                row["detail"] = json.dumps(detail)
            else:
                row["subject"] = data.draw(st.text(st.characters(codec="utf-8"), max_size=30))
            row["digest"] = journal._digest(row)
            connection.execute(ENTRIES.update().where(ENTRIES.c.sequence == row["sequence"]).values(**row))
        engine.dispose()
        assert_told(path)


@given(column=st.sampled_from(["run", "flow", "pipeline", "host", "pid", "started", "beat"]), value=_cells)
@example(column="pid", value=2**62)
@example(column="pid", value=-1)
@examples(2)
def test_any_cell_of_a_heartbeat(filled: Path, column: str, value: Any) -> None:
    with copied(filled) as path:
        with closing(sqlite3.connect(path)) as raw:
            try:
                raw.execute(f"UPDATE heartbeats SET {column} = ?", (value,))
            except sqlite3.IntegrityError:
                return
            raw.commit()
        ledger = Ledger(f"sqlite:///{path}")
        try:
            assert len([beat.is_gone for beat in ledger.heartbeats.all()]) == 1
        except DataError as error:
            assert "heartbeat" in error.what
        ledger.close()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db")
    made.outbox.open(_INCIDENT)
    yield made
    made.close()


@given(key=st.one_of(texts, st.text(max_size=40).map(lambda text: f"incident-{text}")))
def test_any_event(ledger: Ledger, key: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_incident(ledger, key)
    assert len(str(caught.value)) < 1000
    assert find_incident(ledger, _INCIDENT.key) == _INCIDENT


@example(kind="\ud800", subject="\x00", detail=10**4200)
@given(kind=texts, subject=texts, detail=values)
@examples(2)
def test_any_fact(ledger: Ledger, kind: str, subject: str, detail: Any) -> None:
    """What the ledger takes it gives back; what it cannot take it refuses, and the chain stays whole."""
    count, _ = ledger.verify()
    try:
        ((entry, _),) = ledger.append(Fact("tiny", kind, subject, {"given": detail}))
    except MillraceError:
        assert ledger.verify()[0] == count
    else:
        assert ledger.entry(entry.sequence) == entry
        assert ledger.verify()[0] == count + 1


def test_a_removed_entry_is_noticed(filled: Path) -> None:
    with copied(filled) as path:
        with closing(sqlite3.connect(path)) as raw:
            raw.execute("DELETE FROM entries WHERE sequence = 4")
            raw.commit()
        assert any("entry 4" in str(error) for error in assert_told(path))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(MillraceError):
        Ledger(f"sqlite:///{tmp_path}/ledger.db").entries()
