"""Incidents: durable before anybody is told, each answered once.

An incident is an entry, its answer another, what came of it a third. One without an answer is what the outbox holds
(the table `unanswered` names its entry): the reconciler sees to it until it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from millrace.errors import DigestError, UnknownNameError
from millrace.faults import fault_point
from millrace.ledger.database import Database
from millrace.ledger.journal import Entry, Fact, append, entries_of, select, sound
from millrace.ledger.tables import ENTRIES, UNANSWERED
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
            return _open(connection, *incidents)

    def open_when(self, incident: Incident, allowed: Callable[[Sequence[datetime]], bool]) -> bool:
        """Record `incident` when `allowed` says so of the ends of the windows of the pipeline's incidents so far.

        Question and record are one step: two checks at once cannot both spend the last of a budget.
        """
        with fault_point("incident.open_when"), self._database.write() as connection:
            opened = select(connection, pipeline=incident.pipeline, kinds=[OPENED])
            ends = [_incident(entry).window.end for entry in opened]
            return allowed(ends) and _open(connection, incident)[0]

    def find(self, key: str) -> Incident | None:
        """The incident with this key, or None."""
        with self._database.read() as connection:
            found = _told(select(connection, kinds=[OPENED, ANSWERED, CLOSED], subject=key))
        return found[0] if found else None

    def of(self, pipeline: str) -> list[Incident]:
        """All incidents of a pipeline, by event time."""
        with self._database.read() as connection:
            found = _told(select(connection, pipeline=pipeline, kinds=[OPENED, ANSWERED, CLOSED]))
        return sorted(found, key=lambda incident: incident.window.end)

    def unanswered(self, pipeline: str | None = None) -> list[Incident]:
        """Incidents that nobody has answered, of one pipeline or of all, oldest first."""
        waiting = sa.select(UNANSWERED.c.sequence)
        if pipeline is not None:
            waiting = waiting.where(UNANSWERED.c.pipeline == pipeline)
        query = ENTRIES.select().where(ENTRIES.c.sequence.in_(waiting)).order_by(ENTRIES.c.sequence)
        with self._database.read() as connection:
            return [_incident(entry) for entry in entries_of(connection.execute(query))]

    def answer(self, key: str, response: str) -> str:
        """Record that `response` (a flow run's id) answers the incident; the first answer stays. Returns it.

        Raises:
            UnknownNameError: there is no such incident.
        """
        with fault_point("incident.answer"), self._database.write() as connection:
            opened = _opened(connection, key)
            entry, _ = append(connection, Fact(opened.pipeline, ANSWERED, key, {"response": response}, once=key))[0]
            connection.execute(UNANSWERED.delete().where(UNANSWERED.c.sequence == opened.sequence))
        return _said(entry, "response")

    def close(self, key: str, outcome: str) -> None:
        """Record what came of the response: promoted, refused, rolling out, unchanged, failed. The newest word counts.

        Raises:
            UnknownNameError: there is no such incident.
        """
        with fault_point("incident.close"), self._database.write() as connection:
            pipeline = _opened(connection, key).pipeline
            said = select(connection, kinds=[CLOSED], subject=key, newest_first=True, limit=1)
            if not said or said[0].detail.get("outcome") != outcome:
                append(connection, Fact(pipeline, CLOSED, key, {"outcome": outcome}))


def verify(connection: sa.Connection) -> None:
    """Compare the index of unanswered incidents with the journal.

    Raises:
        DigestError: it lacks an incident without an answer, or has another.
    """
    answered = ENTRIES.alias()
    without = sa.select(ENTRIES.c.sequence).where(
        ENTRIES.c.kind == OPENED,
        ~sa.exists().where(answered.c.kind == ANSWERED, answered.c.subject == ENTRIES.c.subject),
    )
    waiting = set(connection.scalars(without))
    indexed = set(connection.scalars(sa.select(UNANSWERED.c.sequence)))
    if waiting != indexed:
        raise DigestError(
            f"the outbox is not what the journal says at entry {min(waiting ^ indexed)}",
            got=f"{len(indexed)} unanswered incidents",
            allowed=f"{len(waiting)}",
            next="somebody altered the table 'unanswered': compare with a backup of the ledger's database",
        )


def _open(connection: sa.Connection, *incidents: Incident) -> list[bool]:
    done = append(connection, *(incident.as_opened for incident in incidents))
    if waiting := [{"sequence": entry.sequence, "pipeline": entry.pipeline} for entry, new in done if new]:
        connection.execute(UNANSWERED.insert(), waiting)
    return [new for _, new in done]


def _opened(connection: sa.Connection, key: str) -> Entry:
    found = select(connection, kinds=[OPENED], subject=key, limit=1)
    if not found:
        raise UnknownNameError(f"no incident '{key}' in the ledger", next="open it first")
    return found[0]


def _told(entries: Sequence[Entry]) -> list[Incident]:
    """The incidents that `entries` open, with what they say of them later."""
    responses = {entry.subject: _said(entry, "response") for entry in entries if entry.kind == ANSWERED}
    outcomes = {entry.subject: _said(entry, "outcome") for entry in entries if entry.kind == CLOSED}
    return [
        _incident(entry, responses.get(entry.subject), outcomes.get(entry.subject))
        for entry in entries
        if entry.kind == OPENED
    ]


def _incident(entry: Entry, response: str | None = None, outcome: str | None = None) -> Incident:
    with sound():
        detail, window = entry.detail, Window.from_key(entry.detail["window"])
        version, kind, evidence = detail["version"], detail["kind"], detail["evidence"]
    return Incident(entry.pipeline, version, kind, window, evidence, response, outcome)


def _said(entry: Entry, name: str) -> str:
    with sound():
        return str(entry.detail[name])
