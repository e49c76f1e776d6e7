"""The ledger's database: SQLite (WAL) or PostgreSQL, brought to the newest schema at its first use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, ProgrammingError
from sqlalchemy.pool import NullPool

from millrace.errors import ConflictError, DataError, ServiceError, SettingsError
from millrace.faults import fault_point

#: The newest migration; a test holds it against the folder `migrations/versions`.
HEAD = "0002"

#: Not Alembic's own name: MLflow and Prefect keep theirs under that, and one PostgreSQL database may hold all three.
VERSION_TABLE = "ledger_schema"
_KNOWN = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'ledger_schema'",
    "postgresql": "SELECT CAST(to_regclass('ledger_schema') AS text)",
}

_BUSY_MS = 30_000
_CONNECT_SECONDS = 10
# PostgreSQL ends the session of a writer that is stopped in the middle, so that the others are not stopped with it.
_STOPPED_MS = 30_000
# One number for all of Millrace's writers: PostgreSQL's advisory lock that makes appends follow each other.
_LOCK = 0x6D696C6C
_BACKENDS = ("sqlite", "postgresql")


class Database:
    """Building one opens nothing; the first transaction creates or migrates the schema."""

    def __init__(self, url: str) -> None:
        try:
            self._url = sa.make_url(url)
        except ArgumentError as error:
            raise _url_error("it is no SQLAlchemy URL") from error
        if self._url.get_backend_name() not in _BACKENDS:
            raise _url_error(f"the backend '{self._url.get_backend_name()}' is not known")
        if self.is_sqlite and (not self._url.database or self._url.database.startswith((":", "file:"))):
            raise _url_error("it names no file, and a ledger in memory forgets")
        if self._url.drivername == "postgresql":
            self._url = self._url.set(drivername="postgresql+psycopg")
        self._engine: sa.Engine | None = None

    @property
    def is_sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that changes nothing, and sees the ledger as it was at one moment."""
        with self._mapped():
            engine = self._ready()
            if not self.is_sqlite:
                # Else each statement sees what was committed before it.
                engine = engine.execution_options(isolation_level="REPEATABLE READ")
            with engine.begin() as connection:
                yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is alone: writers follow each other, and none sees half of another's work."""
        with self._mapped(), self._ready().connect() as connection, alone(connection):
            yield connection

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        # A URL's query may hold a password too.
        shown = self._url.set(query={}).render_as_string(hide_password=True)
        try:
            yield
        except (IntegrityError, ProgrammingError) as error:
            raise ServiceError(
                f"the ledger at {shown} refuses a statement",
                got=str(error.orig),
                next="check that the user in MILLRACE_LEDGER_URL owns the tables, and that nobody altered them",
            ) from error
        except UnicodeEncodeError as error:
            raise DataError(
                "the ledger cannot store a text",
                got=str(error),
                allowed="text without lone surrogates",
                next="correct it",
            ) from error
        except (DBAPIError, sqlite3.Error, OSError) as error:
            raise ServiceError(
                f"the ledger at {shown} does not answer",
                got=str(error.orig if isinstance(error, DBAPIError) else error),
                next="check MILLRACE_LEDGER_URL and that the database runs",
            ) from error

    def _ready(self) -> sa.Engine:
        if self._engine is None:
            engine = self._open()
            try:
                if _schema(engine) != HEAD:
                    # Around the lock: who is stopped here must not keep others waiting.
                    with fault_point("ledger.migrate"):
                        self._migrate(engine)
            except BaseException:
                engine.dispose()
                raise
            self._engine = engine
        return self._engine

    def _open(self) -> sa.Engine:
        try:
            if self.is_sqlite:
                Path(str(self._url.database)).parent.mkdir(parents=True, exist_ok=True)
                # A pooled SQLite handle would outlive a flow and keep the WAL open.
                engine = sa.create_engine(self._url, poolclass=NullPool)
                sa.event.listen(engine, "connect", _prepare_sqlite)
                sa.event.listen(engine, "begin", _begin_sqlite)
            else:
                # A server that was restarted has dropped the pooled connection: ask before it is used.
                patience = {} if "connect_timeout" in self._url.query else {"connect_timeout": _CONNECT_SECONDS}
                engine = sa.create_engine(self._url, pool_size=2, pool_pre_ping=True, connect_args=patience)
        except (NoSuchModuleError, ImportError) as error:
            raise _url_error(str(error)) from error
        return engine

    def _migrate(self, engine: sa.Engine) -> None:
        """Bring the schema to HEAD; of several processes at once, one does it and the others wait."""
        if not self.is_sqlite:
            with engine.connect() as connection, alone(connection):
                _upgrade(connection)
            return
        # Switching an SQLite file to WAL waits for nobody, it fails.
        lock = FileLock(f"{self._url.database}.lock", timeout=_BUSY_MS / 1000)
        try:
            with lock, closing(engine.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA journal_mode=WAL")
                with engine.connect() as connection, alone(connection):
                    _upgrade(connection)
        except Timeout:
            raise ServiceError(
                f"another process has been preparing the ledger {self._url.database} for too long",
                allowed=f"{_BUSY_MS / 1000:g} s",
                next=f"end the process that holds {lock.lock_file}",
            ) from None


@contextmanager
def alone(connection: sa.Connection) -> Iterator[None]:
    """A transaction that no other writer of the ledger overlaps."""
    connection.info["immediate"] = True
    with connection.begin():
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(
                f"SELECT set_config('lock_timeout', '{_BUSY_MS}', true), "
                f"set_config('idle_in_transaction_session_timeout', '{_STOPPED_MS}', true)"
            )
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if (found := _revision(connection)) is not None and found > HEAD:
        raise ConflictError(
            "the ledger's database was written by a newer Millrace",
            got=f"schema {found}",
            allowed=f"up to {HEAD}",
            next="use the newer Millrace, or another MILLRACE_LEDGER_URL",
        )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _schema(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        return _revision(connection)


def _revision(connection: sa.Connection) -> str | None:
    # Each new `Ledger` asks: one look at the catalogue, with nothing to compile.
    if connection.exec_driver_sql(_KNOWN[connection.dialect.name]).scalar() is None:
        return None
    return connection.exec_driver_sql("SELECT version_num FROM ledger_schema").scalar()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # Python's driver begins transactions at its own time; ours begin where we say.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    # FULL: a commit that was acknowledged survives a power cut.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that reads first and writes later fails when another wrote meanwhile.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.info.pop("immediate", False) else "BEGIN")


def _url_error(why: str) -> SettingsError:
    # The URL may hold a password, so it is not shown.
    return SettingsError(
        "the ledger's URL cannot be used",
        got=why,
        allowed="sqlite:////folder/ledger.db or postgresql://user:password@host/database",
        next="correct MILLRACE_LEDGER_URL, or install its driver",
    )
