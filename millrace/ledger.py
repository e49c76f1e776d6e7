"""The append-only record of decisions, incidents, checks and costs, in SQLite or PostgreSQL.

The incidents table is also the outbox: an incident is written before any event is sent, and stays `open` until a
response is recorded, so an event that is lost is sent again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from millrace.errors import ServiceError, SettingsError, UnknownNameError
from millrace.storage import digest_json
from millrace.window import Window

_META = sa.MetaData()

_INCIDENTS = sa.Table(
    "incidents",
    _META,
    sa.Column("key", sa.String(80), primary_key=True),
    sa.Column("pipeline", sa.String(63), nullable=False, index=True),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("window_start", sa.DateTime(timezone=True), nullable=False),
    sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
    sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("response", sa.String(80)),
    sa.Column("outcome", sa.String(40)),
)
_CHECKS = sa.Table(
    "checks",
    _META,
    sa.Column("pipeline", sa.String(63), primary_key=True),
    sa.Column("window_start", sa.DateTime(timezone=True), primary_key=True),
    sa.Column("version", sa.String(40), primary_key=True),
    sa.Column("window_end", sa.DateTime(timezone=True), nullable=False),
    sa.Column("bad", sa.Boolean, nullable=False),
    sa.Column("verdicts", sa.Text, nullable=False),
    sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
)
_DECISIONS = sa.Table(
    "decisions",
    _META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("pipeline", sa.String(63), nullable=False, index=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(160), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.UniqueConstraint("pipeline", "kind", "subject", "detail", name="decided_once"),
)
_COSTS = sa.Table(
    "costs",
    _META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("pipeline", sa.String(63), nullable=False, index=True),
    sa.Column("part", sa.String(40), nullable=False),
    sa.Column("run", sa.String(80), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("amount", sa.Float, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Incident:
    """One fact that something is wrong. Its key is computed from the fact, so the same fact is one incident."""

    pipeline: str
    version: str
    kind: str
    window: Window
    evidence: Mapping[str, Any]
    response: str | None = None
    outcome: str | None = None

    @property
    def key(self) -> str:
        fact = [self.pipeline, self.version, self.kind, self.window.key]
        return f"incident-{digest_json(fact)[:24]}"


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """The judgement of one window, kept so that K of N can be counted."""

    pipeline: str
    version: str
    window: Window
    bad: bool
    verdicts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Something that was decided: promoted, refused, rolled back, retrained."""

    at: datetime
    pipeline: str
    kind: str
    subject: str
    detail: Mapping[str, Any]


class Ledger:
    """The ledger's database. Building one opens nothing; the first call creates the tables."""

    def __init__(self, url: str) -> None:
        try:
            self._url = sa.make_url(url)
        except ArgumentError as error:
            raise _url_error("it is no SQLAlchemy URL") from error
        self._engine: sa.Engine | None = None

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._connect().begin() as connection:
                yield connection
        except (IntegrityError, ProgrammingError, DataError):
            raise
        except (DBAPIError, OSError) as error:
            raise ServiceError(
                f"the ledger at {self._url.render_as_string(hide_password=True)} does not answer",
                got=str(error.orig if isinstance(error, DBAPIError) else error),
                next="check MILLRACE_LEDGER_URL and that the database runs",
            ) from error

    def _connect(self) -> sa.Engine:
        if self._engine is None:
            if self._url.get_backend_name() == "sqlite" and self._url.database:
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            # NullPool: flows are short; a pooled SQLite handle would outlive them and keep the WAL open.
            try:
                engine = sa.create_engine(self._url, poolclass=sa.NullPool)
            except (NoSuchModuleError, ImportError) as error:
                raise _url_error(str(error)) from error
            if self._url.get_backend_name() == "sqlite":
                sa.event.listen(engine, "connect", _be_patient)
            with _first_use(self._url):
                if self._url.get_backend_name() == "sqlite":
                    with engine.connect() as connection:
                        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                _create_tables(engine)
            self._engine = engine
        return self._engine

    # Incidents ------------------------------------------------------------------------------------------------

    def open_incident(self, incident: Incident) -> bool:
        """Record `incident`; False when the same fact is there already."""
        row = {
            "key": incident.key,
            "pipeline": incident.pipeline,
            "version": incident.version,
            "kind": incident.kind,
            "window_start": incident.window.start,
            "window_end": incident.window.end,
            "opened_at": datetime.now(UTC),
            "evidence": _dump(incident.evidence),
        }
        try:
            with self._begin() as connection:
                connection.execute(_INCIDENTS.insert().values(**row))
        except IntegrityError:
            return False
        return True

    def incident(self, key: str) -> Incident | None:
        """The incident with this key, or None."""
        with self._begin() as connection:
            row = connection.execute(_INCIDENTS.select().where(_INCIDENTS.c.key == key)).one_or_none()
        return None if row is None else _incident(row)

    def incidents(self, pipeline: str) -> list[Incident]:
        """All incidents of a pipeline, by event time."""
        query = _INCIDENTS.select().where(_INCIDENTS.c.pipeline == pipeline).order_by(_INCIDENTS.c.window_end)
        with self._begin() as connection:
            return [_incident(row) for row in connection.execute(query)]

    def unanswered(self, pipeline: str) -> list[Incident]:
        """Incidents without a response: the reconciler sends their event again."""
        return [incident for incident in self.incidents(pipeline) if incident.response is None]

    def answer_incident(self, key: str, response: str) -> str:
        """Record that `response` (a flow run's id) answers the incident; the first answer stays. Returns it.

        Raises:
            UnknownNameError: there is no such incident.
        """
        update = _INCIDENTS.update().where(_INCIDENTS.c.key == key, _INCIDENTS.c.response.is_(None))
        with self._begin() as connection:
            connection.execute(update.values(response=response))
            found = connection.execute(sa.select(_INCIDENTS.c.response).where(_INCIDENTS.c.key == key)).scalar()
        if found is None:
            raise UnknownNameError(f"no incident '{key}' in the ledger", next="open it first")
        return str(found)

    def close_incident(self, key: str, outcome: str) -> None:
        """Record what came of the response: promoted, refused or failed."""
        with self._begin() as connection:
            connection.execute(_INCIDENTS.update().where(_INCIDENTS.c.key == key).values(outcome=outcome))

    # Checks ---------------------------------------------------------------------------------------------------

    def record_check(self, check: CheckRecord) -> None:
        """Record the judgement of a window; judged again, the newest judgement replaces the older one."""
        key = (
            (_CHECKS.c.pipeline == check.pipeline)
            & (_CHECKS.c.window_start == check.window.start)
            & (_CHECKS.c.version == check.version)
        )
        with self._begin() as connection:
            connection.execute(_CHECKS.delete().where(key))
            connection.execute(
                _CHECKS.insert().values(
                    pipeline=check.pipeline,
                    version=check.version,
                    window_start=check.window.start,
                    window_end=check.window.end,
                    bad=check.bad,
                    verdicts=_dump(check.verdicts),
                    checked_at=datetime.now(UTC),
                )
            )

    def checks(self, pipeline: str, until: datetime, limit: int) -> list[CheckRecord]:
        """The newest `limit` judged windows that ended at or before `until`, newest first.

        A window that was judged for several versions counts once, by its newest judgement.
        """
        query = (
            _CHECKS.select()
            .where(_CHECKS.c.pipeline == pipeline, _CHECKS.c.window_end <= until)
            .order_by(_CHECKS.c.window_end.desc(), _CHECKS.c.checked_at.desc())
        )
        newest: dict[Window, CheckRecord] = {}
        with self._begin() as connection:
            for row in connection.execute(query):
                window = Window(row.window_start, row.window_end)
                if window not in newest and len(newest) == limit:
                    break
                newest.setdefault(
                    window, CheckRecord(row.pipeline, row.version, window, row.bad, tuple(json.loads(row.verdicts)))
                )
        return list(newest.values())

    # Decisions and costs --------------------------------------------------------------------------------------

    def decide(self, pipeline: str, kind: str, subject: str, detail: Mapping[str, Any]) -> None:
        """Append a decision; the same decision said twice (a run that is repeated) is kept once."""
        row = {"at": datetime.now(UTC), "pipeline": pipeline, "kind": kind, "subject": subject, "detail": _dump(detail)}
        try:
            with self._begin() as connection:
                connection.execute(_DECISIONS.insert().values(**row))
        except IntegrityError:
            return

    def decisions(self, pipeline: str, kind: str | None = None) -> list[Decision]:
        """The pipeline's decisions, oldest first."""
        query = _DECISIONS.select().where(_DECISIONS.c.pipeline == pipeline).order_by(_DECISIONS.c.id)
        if kind is not None:
            query = query.where(_DECISIONS.c.kind == kind)
        with self._begin() as connection:
            return [
                Decision(_aware(row.at), row.pipeline, row.kind, row.subject, json.loads(row.detail))
                for row in connection.execute(query)
            ]

    def spend(self, pipeline: str, part: str, run: str, *, seconds: float, amount: float, currency: str) -> None:
        """Append the cost of `seconds` of `part` (stage, train, evaluate, …) in run `run`."""
        with self._begin() as connection:
            connection.execute(
                _COSTS.insert().values(
                    at=datetime.now(UTC),
                    pipeline=pipeline,
                    part=part,
                    run=run,
                    seconds=seconds,
                    amount=amount,
                    currency=currency,
                )
            )

    def spent(self, pipeline: str) -> dict[str, float]:
        """Money spent so far, by run."""
        query = (
            sa.select(_COSTS.c.run, sa.func.sum(_COSTS.c.amount))
            .where(_COSTS.c.pipeline == pipeline)
            .group_by(_COSTS.c.run)
        )
        with self._begin() as connection:
            return {run: float(amount) for run, amount in connection.execute(query)}


def _url_error(why: str) -> SettingsError:
    # The URL may hold a password, so it is not shown.
    return SettingsError(
        "the ledger's URL cannot be used",
        got=why,
        allowed="sqlite:////folder/ledger.db or postgresql://user:password@host/database",
        next="correct MILLRACE_LEDGER_URL, or install its driver",
    )


def _create_tables(engine: sa.Engine) -> None:
    """Create what is absent. `create_all` looks first and creates then, so of two processes at once one would fail."""
    with engine.begin() as connection:
        for table in _META.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))


def _be_patient(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


def _first_use(url: sa.URL) -> AbstractContextManager[object]:
    """One process at a time prepares an SQLite file: switching it to WAL waits for nobody, it fails."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return nullcontext()
    return FileLock(f"{url.database}.lock")


def _incident(row: Any) -> Incident:
    window = Window(row.window_start, row.window_end)
    return Incident(row.pipeline, row.version, row.kind, window, json.loads(row.evidence), row.response, row.outcome)


def _aware(moment: datetime) -> datetime:
    # SQLite gives naive times back; all of ours were written in UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
