"""From any older schema to the newest: completely, once, and not at all when it is killed on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import millrace.ledger
from millrace.errors import ConflictError
from millrace.ledger import CheckRecord, Entry, Ledger
from millrace.ledger.database import HEAD, VERSION_TABLE
from millrace.ledger.tables import METADATA
from tests import old_ledger
from tests.ledgers import INCIDENT, START, count, engine, processes_at_once, tamper, week

HOUR = timedelta(hours=1)


def tables(url: str) -> set[str]:
    return set(sa.inspect(engine(url)).get_table_names())


def assert_carried_over(url: str) -> None:
    ledger = Ledger(url)
    assert [(entry.kind, entry.subject, entry.at) for entry in ledger.entries("tiny", "promoted", "rolled_back")] == [
        ("promoted", "1", START),
        ("promoted", "2", START + 2 * HOUR),
        ("rolled_back", "1", START + 5 * HOUR),
    ]
    assert ledger.decisions("tiny", "promoted")[1].detail["reasons"] == ["better"]
    served = [ledger.serving("tiny", START + hours * HOUR) for hours in (-1, 0, 1, 2, 4, 5, 99)]
    assert [entry and (entry.subject, entry.detail["package"]) for entry in served] == [
        None, ("1", "sha256:1"), ("1", "sha256:1"), ("2", "sha256:2"), ("2", "sha256:2"), ("1", "sha256:1"),
        ("1", "sha256:1"),
    ]  # fmt: skip
    causes = [ledger.entry(entry.detail["because"]) for entry in served if entry]
    assert [cause.kind for cause in causes if isinstance(cause, Entry)] == [
        "promoted", "promoted", "promoted", "promoted", "rolled_back", "rolled_back",
    ]  # fmt: skip
    assert ledger.checks("tiny", week(9).end, 9) == [
        CheckRecord("tiny", "2", week(number), number == 1, ({"gate": "drift"},)) for number in (1, 0)
    ]
    incidents = [replace(INCIDENT, window=week(number)) for number in range(3)]
    assert ledger.outbox.of("tiny") == [
        incidents[0],
        replace(incidents[1], response="run-1"),
        replace(incidents[2], response="run-2", outcome="promoted"),
    ]
    assert ledger.outbox.unanswered() == [incidents[0]]
    assert ledger.outbox.open(*incidents) == [False] * 3, "they are the same facts"
    assert ledger.spent("tiny") == {"run-1": 3.5}
    assert len(ledger.decisions("tiny", "refused")) == 1
    before = len(ledger.entries())
    ledger.decide("tiny", "refused", "3", {"package": "sha256:3"})
    assert ledger.verify()[0] == before == 15, "a decision said again is kept once, also across the change"
    ledger.close()
    assert tables(url) == {"entries", "costs", "heartbeats", "unanswered", VERSION_TABLE}


def test_an_old_ledger_is_carried_over(blank_url: Callable[[], str]) -> None:
    url = old(blank_url())
    assert_carried_over(url)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine(url).begin() as connection:
        connection.exec_driver_sql("DELETE FROM costs")


def test_of_processes_that_meet_an_old_ledger_one_carries_it_over(blank_url: Callable[[], str]) -> None:
    url = old(blank_url())
    assert processes_at_once(url, count) == [15] * 4
    assert_carried_over(url)


def test_killed_at_any_statement_the_ledger_is_old_or_new(blank_url: Callable[[], str]) -> None:
    url = old(blank_url())
    before = tables(url)
    total = statements(old(blank_url()))
    assert total > 40
    for number in range(1, total, max(1, total // 8)):
        child = multiprocessing.get_context("forkserver").Process(target=killed_at, args=(url, number))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert tables(url) == before, f"killed before statement {number} of {total}"
    assert_carried_over(url)


def old(url: str) -> str:
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    old_ledger.make(url)
    return url


def statements(url: str) -> int:
    """How many statements a migration takes."""
    seen: list[str] = []
    with listening(seen.append):
        ledger = Ledger(url)
        ledger.heartbeats.all()
        ledger.close()
    return len(seen)


def killed_at(url: str, number: int) -> None:
    left = [number]

    def strike(_statement: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with listening(strike):
        Ledger(url).heartbeats.all()


class listening:  # noqa: N801 - reads as a statement
    def __init__(self, told: Callable[[str], object]) -> None:
        self.listener: Any = lambda _connection, _cursor, statement, *_: told(statement)

    def __enter__(self) -> None:
        sa.event.listen(sa.Engine, "before_cursor_execute", self.listener)

    def __exit__(self, *_: object) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self.listener)


def test_a_ledger_of_a_newer_schema_is_refused(url: str, ledger: Ledger) -> None:
    ledger.decide("tiny", "noted", "x", {})
    tamper(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    newer = Ledger(url)
    with pytest.raises(ConflictError, match="the ledger's database was written by a newer Millrace") as caught:
        newer.entries()
    assert "got: 'schema 9999'" in str(caught.value)
    assert f"allowed: up to {HEAD}" in str(caught.value)
    with engine(url).connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM entries")) == 1


def test_another_programs_schema_is_left_alone(blank_url: Callable[[], str]) -> None:
    """MLflow and Prefect keep theirs in `alembic_version`, perhaps in the same database."""
    url = blank_url()
    if url.startswith("sqlite"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with engine(url).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('1b2c3d')")
    ledger = Ledger(url)
    ledger.decide("tiny", "noted", "x", {})
    assert len(ledger.entries()) == 1
    ledger.close()
    with engine(url).connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "1b2c3d"


def test_the_newest_migration_is_the_one_that_the_code_wants() -> None:
    versions = Path(millrace.ledger.__file__).parent / "migrations" / "versions"
    assert max(path.name.split("_")[0] for path in versions.glob("[0-9]*.py")) == HEAD


def test_the_migrations_make_the_tables_that_the_code_knows(url: str) -> None:
    with engine(url).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, METADATA) == []
