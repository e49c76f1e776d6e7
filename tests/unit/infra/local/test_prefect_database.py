"""Waiting for SQLite's write lock holds up nobody but who waits."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from infra.local import prefect_database
from infra.local.prefect_database import PatientConnection, PatientSqlite


def connect(path: Path, factory: type[sqlite3.Connection] = PatientConnection) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.02, factory=factory)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "prefect.db"
    with connect(path) as connection:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
        connection.cursor().execute("CREATE TABLE runs (name)")
    return path


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Who holds the write lock."""
    connection = connect(path)
    connection.cursor().execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


class Waiting:
    """A statement that waits for the lock in a thread of its own."""

    def __init__(self, connection: sqlite3.Connection, statement: str) -> None:
        self.error: sqlite3.Error | None = None
        self._connection, self._statement = connection, statement
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._connection.cursor().execute(self._statement)
        except sqlite3.Error as error:
            self.error = error


def test_a_statement_waits_for_the_lock(path: Path, writer: sqlite3.Connection) -> None:
    waiting = Waiting(connect(path), "INSERT INTO runs VALUES ('second')")
    writer.cursor().execute("INSERT INTO runs VALUES ('first')")
    assert waiting.thread.is_alive()
    writer.cursor().execute("COMMIT")
    waiting.thread.join(10)
    assert waiting.error is None
    assert writer.cursor().execute("SELECT name FROM runs").fetchall() == [("first",), ("second",)]


@pytest.mark.parametrize("begin", ["BEGIN IMMEDIATE", "BEGIN DEFERRED"])
def test_many_rows_wait_for_the_lock_and_are_written_once(
    path: Path, writer: sqlite3.Connection, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def let_go(seconds: float) -> None:
        pauses.append(seconds)
        writer.cursor().execute("COMMIT")

    monkeypatch.setattr(prefect_database, "sleep", let_go)
    other = connect(path)
    other.cursor().execute(begin)
    other.cursor().executemany("INSERT INTO runs VALUES (?)", ((str(n),) for n in range(3)))
    other.cursor().execute("COMMIT")
    assert len(pauses) == 1
    assert writer.cursor().execute("SELECT name FROM runs").fetchall() == [("0",), ("1",), ("2",)]


def test_a_lock_that_is_never_let_go_is_an_error(
    path: Path, writer: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect_database, "_MOST_SECONDS", 0.05)
    with pytest.raises(sqlite3.OperationalError, match="database is locked"):
        connect(path).cursor().execute("INSERT INTO runs VALUES ('never')")


def test_what_waiting_cannot_mend_fails_at_once(path: Path) -> None:
    reader, writer = connect(path), connect(path)
    reader.cursor().execute("BEGIN DEFERRED")
    reader.cursor().execute("SELECT name FROM runs").fetchall()
    writer.cursor().execute("INSERT INTO runs VALUES ('newer')")
    with pytest.raises(sqlite3.OperationalError) as caught:
        reader.cursor().execute("INSERT INTO runs VALUES ('older')")
    assert caught.value.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT


def test_freeing_a_cursor_of_a_connection_that_waits_does_not_wait(path: Path, writer: sqlite3.Connection) -> None:
    """What stopped the server for a minute: the collector frees a cursor while its connection waits for the lock."""
    connection = connect(path)
    cursor = connection.cursor()
    with pytest.raises(sqlite3.OperationalError):
        sqlite3.Cursor.execute(cursor, "BEGIN IMMEDIATE")
    waiting = Waiting(connection, "BEGIN IMMEDIATE")
    freed = threading.Event()

    def free() -> None:
        nonlocal cursor
        del cursor
        gc.collect()
        freed.set()

    threading.Thread(target=free).start()
    assert freed.wait(5)
    assert waiting.thread.is_alive()
    writer.cursor().execute("COMMIT")
    waiting.thread.join(10)
    assert waiting.error is None


def test_prefect_uses_patient_connections(path: Path) -> None:
    async def timeouts() -> tuple[str, int]:
        engine = await PatientSqlite(connection_url=f"sqlite+aiosqlite:///{path}").engine()
        async with engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            found = await connection.execute(sa.text("PRAGMA busy_timeout"))
            return type(raw._conn).__name__, found.scalar_one()

    assert asyncio.run(timeouts()) == ("PatientConnection", 20)


def test_another_database_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    dependencies: dict[str, object] = {"database_config": None}
    monkeypatch.setattr(prefect_database, "MODELS_DEPENDENCIES", dependencies)
    prefect_database.use_patient_sqlite("postgresql+asyncpg://localhost/prefect")
    assert dependencies["database_config"] is None
    prefect_database.use_patient_sqlite("sqlite+aiosqlite:///prefect.db")
    assert isinstance(dependencies["database_config"], PatientSqlite)
