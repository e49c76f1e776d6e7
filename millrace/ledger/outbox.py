"""Incidents: durable before anybody is told, each answered once.

An incident is an entry, its answer another, what came of it a third. One without an answer is what the outbox holds:
the reconciler sees to it until it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from millrace.errors import UnknownNameError
from millrace.faults import fault_point
from millrace.ledger.database import Database
from millrace.ledger.journal import Entry, Fact, append, fetch, holding, select
from millrace.ledger.tables import ENTRIES
from millrace.storage import digest_json
from millrace.window import Window

OPENED = "incident_opened"
ANSWERED = "incident_answered"
CLOSED = "incident_closed"


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

    @property
    def as_opened(self) -> Fact:
        """The entry that opens it."""
        detail = {
            "version": self.version,
            "kind": self.kind,
            "window": self.window.key,
            "evidence": dict(self.evidence),
        }
        return Fact(self.pipeline, OPENED, self.key, detail, once=self.key)


class Outbox:
    """The incidents of all pipelines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, *incidents: Incident) -> list[bool]:
        """Record incidents, all or none; for each, whether it is new."""
        with fault_point("incident.open"), self._database.write() as connection:
            return [new for _, new in append(connection, *(incident.as_opened for incident in incidents))]

    def open_when(self, incident: Incident, allowed: Callable[[Sequence[datetime]], bool]) -> bool:
        """Record `incident` when `allowed` says so of the ends of the windows of the pipeline's incidents so far.

        Question and record are one step: two checks at once cannot both spend the last of a budget.
        """
        with fault_point("incident.open_when"), self._database.write() as connection:
            ends = [found.window.end for found in _incidents(connection, incident.pipeline)]
            return allowed(ends) and append(connection, incident.as_opened)[0][1]

    def find(self, key: str) -> Incident | None:
        """The incident with this key, or None."""
        with self._database.read() as connection:
            found = _with_answers(connection, select(connection, kinds=[OPENED], subject=key))
        return found[0] if found else None

    def of(self, pipeline: str) -> list[Incident]:
        """All incidents of a pipeline, by event time."""
        with self._database.read() as connection:
            return sorted(_incidents(connection, pipeline), key=lambda incident: incident.window.end)

    def unanswered(self, pipeline: str | None = None) -> list[Incident]:
        """Incidents that nobody has answered, of one pipeline or of all, oldest first."""
        answer = ENTRIES.alias()
        query = ENTRIES.select().where(
            ENTRIES.c.kind == OPENED,
            ~sa.exists().where(answer.c.kind == ANSWERED, answer.c.subject == ENTRIES.c.subject),
        )
        if pipeline is not None:
            query = query.where(ENTRIES.c.pipeline == pipeline)
        with self._database.read() as connection:
            return [_incident(entry) for entry in fetch(connection, query.order_by(ENTRIES.c.sequence))]

    def answer(self, key: str, response: str) -> str:
        """Record that `response` (a flow run's id) answers the incident; the first answer stays. Returns it.

        Raises:
            UnknownNameError: there is no such incident.
        """
        with fault_point("incident.answer"), self._database.write() as connection:
            pipeline = _pipeline_of(connection, key)
            entry, _ = append(connection, Fact(pipeline, ANSWERED, key, {"response": response}, once=key))[0]
        return _said(entry, "response")

    def close(self, key: str, outcome: str) -> None:
        """Record what came of the response: promoted, refused, unchanged or failed. The newest word counts.

        Raises:
            UnknownNameError: there is no such incident.
        """
        with fault_point("incident.close"), self._database.write() as connection:
            pipeline = _pipeline_of(connection, key)
            said = select(connection, kinds=[CLOSED], subject=key, newest_first=True, limit=1)
            if not said or said[0].detail.get("outcome") != outcome:
                append(connection, Fact(pipeline, CLOSED, key, {"outcome": outcome}))


def _pipeline_of(connection: sa.Connection, key: str) -> str:
    found = select(connection, kinds=[OPENED], subject=key, limit=1)
    if not found:
        raise UnknownNameError(f"no incident '{key}' in the ledger", next="open it first")
    return found[0].pipeline


def _incidents(connection: sa.Connection, pipeline: str) -> list[Incident]:
    return _with_answers(connection, select(connection, pipeline=pipeline, kinds=[OPENED]))


def _with_answers(connection: sa.Connection, opened: Sequence[Entry]) -> list[Incident]:
    if not opened:
        return []
    said = select(
        connection,
        pipeline=opened[0].pipeline,
        kinds=[ANSWERED, CLOSED],
        subject=opened[0].subject if len(opened) == 1 else None,
    )
    responses = {entry.subject: _said(entry, "response") for entry in said if entry.kind == ANSWERED}
    outcomes = {entry.subject: _said(entry, "outcome") for entry in said if entry.kind == CLOSED}
    return [_incident(entry, responses.get(entry.subject), outcomes.get(entry.subject)) for entry in opened]


def _incident(entry: Entry, response: str | None = None, outcome: str | None = None) -> Incident:
    with holding(entry, "version", "kind", "evidence") as detail:
        window = Window.from_key(detail["window"])
    return Incident(entry.pipeline, detail["version"], detail["kind"], window, detail["evidence"], response, outcome)


def _said(entry: Entry, name: str) -> str:
    with holding(entry, name) as detail:
        return str(detail[name])
