"""Databases that cannot be opened, and what is said about them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from millrace.errors import MillraceError, ServiceError, SettingsError
from millrace.ledger import Ledger


def refusal(url: str) -> MillraceError:
    ledger = Ledger(url)
    with pytest.raises(ServiceError) as caught:
        ledger.outbox.of("tiny")
    ledger.close()
    return caught.value


def test_building_one_opens_nothing(tmp_path: Path) -> None:
    Ledger(f"sqlite:///{tmp_path}/new/ledger.db")
    assert list(tmp_path.iterdir()) == []


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


def test_a_file_that_cannot_be_switched_to_wal_is_told(tmp_path: Path) -> None:
    """Another program holds it, and SQLite waits for nobody there."""
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as held:
        held.execute("CREATE TABLE other (x)")
        held.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("millrace.ledger.database._BUSY_MS", 10)
            assert "database is locked" in (refusal(f"sqlite:///{tmp_path}/ledger.db").got or "")
        held.execute("ROLLBACK")
    held.close()


@pytest.mark.parametrize("query", ["", "?password=hush"])
def test_the_password_is_not_in_the_message(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise sqlite3.OperationalError("could not connect")

    # What PostgreSQL's driver raises when nobody answers is of the same class.
    nobody = sa.create_engine("sqlite://", creator=refuse)
    monkeypatch.setattr(sa, "create_engine", lambda *_, **__: nobody)
    error = refusal(f"postgresql://user:hush@db:5432/ledger{query}")
    assert "hush" not in str(error)
    assert error.what == "the ledger at postgresql+psycopg://user:***@db:5432/ledger does not answer"
    assert error.got == "'could not connect'"
    assert error.retryable


@pytest.mark.parametrize(
    "url", ["no url of user:hush@host", "nowhere://user:hush@host/db", "mysql://user:hush@host/db"]
)
def test_a_url_that_is_none_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Ledger(url).outbox.of("tiny")
    assert "hush" not in str(caught.value)
    assert caught.value.next == "correct MILLRACE_LEDGER_URL, or install its driver"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_ledger_in_memory_would_forget(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="the ledger's URL cannot be used"):
        Ledger(url)
    assert list(tmp_path.iterdir()) == []


def test_a_commit_survives_a_power_cut_and_readers_do_not_wait(ledger: Ledger) -> None:
    """WAL, and a synchronisation to the disk at each commit."""
    with ledger._database.write() as writing:
        assert writing.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert writing.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert ledger.entries() == [], "read while another writes"
