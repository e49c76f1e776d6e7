"""Prefect's SQLite, waited for in a way that cannot stop its server.

SQLite waits for its write lock inside a statement and holds the connection's mutex meanwhile: for up to a minute, as
Prefect sets it. Python's garbage collector may free a cursor of that connection on the thread of the server's event
loop, which needs the mutex; and whoever holds the write lock needs the loop to go on. Then nobody is answered until the
minute is over. Here a statement gives up after a few milliseconds and is tried again with the mutex free.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import MODELS_DEPENDENCIES
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

#: How long a statement waits inside SQLite, and then outside of it; seconds for which it is tried again.
_INSIDE_MS = 20
_PAUSE_SECONDS = 0.005
_MOST_SECONDS = 60.0


class PatientCursor(sqlite3.Cursor):
    """A cursor that waits for the lock of the database between attempts, not inside of one."""

    def execute(self, sql: str, parameters: Any = (), /) -> PatientCursor:
        """Run a statement; raises `sqlite3.OperationalError` if the database stays locked for a minute."""
        return _patiently(lambda: super(PatientCursor, self).execute(sql, parameters))

    def executemany(self, sql: str, parameters: Any, /) -> PatientCursor:
        """Run a statement for many rows, again as a whole if the lock is not to be had at the first.

        Outside of a transaction each row is one, so that those before would be written twice: there it is run once.
        """
        if not self.connection.in_transaction:
            return super().executemany(sql, parameters)
        rows = list(parameters)
        return _patiently(lambda: super(PatientCursor, self).executemany(sql, rows))


class PatientConnection(sqlite3.Connection):
    """A connection whose cursors are patient."""

    def cursor(self, factory: Any = PatientCursor) -> Any:
        """A new cursor."""
        return super().cursor(factory)


class PatientSqlite(AioSqliteConfiguration):
    """Prefect's own configuration, with patient connections."""

    async def engine(self) -> AsyncEngine:
        """The engine of the running event loop."""
        engine = await super().engine()
        if not sa.event.contains(engine.sync_engine, "do_connect", _patient):
            sa.event.listen(engine.sync_engine, "do_connect", _patient)
        return engine

    def setup_sqlite(self, conn: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """Prefect's settings of a new connection, but for how long it waits inside of SQLite."""
        super().setup_sqlite(conn, record)
        cursor = conn.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_INSIDE_MS}")
        cursor.close()


def use_patient_sqlite(url: str) -> None:
    """Have this process's Prefect server open its database at `url` so, if it is SQLite."""
    if sa.make_url(url).get_backend_name() == "sqlite":
        MODELS_DEPENDENCIES["database_config"] = PatientSqlite(connection_url=url)


def _patient(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
    options["factory"] = PatientConnection


def _patiently(attempt: Callable[[], PatientCursor]) -> PatientCursor:
    deadline = monotonic() + _MOST_SECONDS
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            # Not SQLITE_BUSY_SNAPSHOT: what this transaction has read is old, and waiting makes it no newer.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
        sleep(_PAUSE_SECONDS)
