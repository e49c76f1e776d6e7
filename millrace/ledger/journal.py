"""The journal: entries that are only ever added, each bound to the one before by its digest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from millrace.errors import DigestError
from millrace.ledger.tables import ENTRIES
from millrace.secrets import redact_value
from millrace.storage import digest_json

#: What the first entry names as the one before it.
GENESIS = "0" * 64

#: Who decided, where no person and no flow run is named.
SYSTEM = "millrace"

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One fact. `actor` is who brought it: a flow run's id, `person:NAME`, or `millrace`."""

    sequence: int
    at: datetime
    pipeline: str
    kind: str
    subject: str
    actor: str
    detail: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Fact:
    """What is to be appended. Of facts with the same `once`, the first stays and the others change nothing."""

    pipeline: str
    kind: str
    subject: str
    detail: Mapping[str, Any]
    actor: str = SYSTEM
    once: str | None = None


def append(connection: sa.Connection, *facts: Fact) -> list[tuple[Entry, bool]]:
    """Append the facts in order; for each its entry, and whether it is new. Needs a transaction that is alone."""
    head = connection.execute(sa.select(ENTRIES).order_by(ENTRIES.c.sequence.desc()).limit(1)).one_or_none()
    sequence, digest = (head.sequence, head.digest) if head is not None else (0, GENESIS)
    # The order of entries is the order of their times, whatever the clocks of the writers say.
    at = datetime.now(UTC) if head is None else max(datetime.now(UTC), _aware(head.at))
    done = []
    for fact in facts:
        once = None if fact.once is None else digest_json([fact.kind, fact.once])
        if once is not None and (known := _by_once(connection, once)) is not None:
            done.append((known, False))
            continue
        sequence += 1
        row = {
            "sequence": sequence,
            "at": at,
            "pipeline": fact.pipeline,
            "kind": fact.kind,
            "subject": fact.subject,
            "actor": fact.actor,
            "detail": json.dumps(redact_value(fact.detail), sort_keys=True, default=str),
            "once": once,
            "previous": digest,
        }
        row["digest"] = digest = _digest(row)
        connection.execute(ENTRIES.insert().values(**row))
        done.append((Entry(sequence, at, *_named(fact), json.loads(str(row["detail"])), digest), True))
    return done


def select(
    connection: sa.Connection,
    *,
    pipeline: str | None = None,
    kinds: Sequence[str] = (),
    subject: str | None = None,
    until: datetime | None = None,
    newest_first: bool = False,
    limit: int | None = None,
) -> list[Entry]:
    """Entries that match, in the order in which they were appended."""
    query = ENTRIES.select()
    if pipeline is not None:
        query = query.where(ENTRIES.c.pipeline == pipeline)
    if kinds:
        query = query.where(ENTRIES.c.kind.in_(kinds))
    if subject is not None:
        query = query.where(ENTRIES.c.subject == subject)
    if until is not None:
        query = query.where(ENTRIES.c.at <= until)
    query = query.order_by(ENTRIES.c.sequence.desc() if newest_first else ENTRIES.c.sequence).limit(limit)
    return [entry_of(row) for row in connection.execute(query)]


def newest(connection: sa.Connection, pipeline: str, *kinds: str, until: datetime | None = None) -> Entry | None:
    """The newest entry of these kinds, or None."""
    found = select(connection, pipeline=pipeline, kinds=kinds, until=until, newest_first=True, limit=1)
    return found[0] if found else None


def verify(connection: sa.Connection) -> tuple[int, str]:
    """Walk the whole chain; the number of entries and the newest digest.

    Raises:
        DigestError: an entry was changed, removed or put between; the message names the first.
    """
    count, digest = 0, GENESIS
    for row in _walk(connection):
        found = _digest({**row._mapping, "at": _aware(row.at)})
        if (row.sequence, row.previous, row.digest) != (count + 1, digest, found):
            raise DigestError(
                f"the ledger was changed at entry {count + 1}",
                got=f"entry {row.sequence}, digest {row.digest[:12]}, after {row.previous[:12]}",
                allowed=f"entry {count + 1}, digest {found[:12]}, after {digest[:12]}",
                next="compare with a backup of the ledger's database; nothing after this entry can be trusted",
            )
        count, digest = count + 1, row.digest
    return count, digest


def entry_of(row: Any) -> Entry:
    return Entry(
        row.sequence,
        _aware(row.at),
        row.pipeline,
        row.kind,
        row.subject,
        row.actor,
        json.loads(row.detail),
        row.digest,
    )


def _walk(connection: sa.Connection) -> Iterator[Any]:
    last = 0
    while rows := connection.execute(
        ENTRIES.select().where(ENTRIES.c.sequence > last).order_by(ENTRIES.c.sequence).limit(_BATCH)
    ).all():
        yield from rows
        last = rows[-1].sequence


def _by_once(connection: sa.Connection, once: str) -> Entry | None:
    row = connection.execute(ENTRIES.select().where(ENTRIES.c.once == once)).one_or_none()
    return None if row is None else entry_of(row)


def _named(fact: Fact) -> tuple[str, str, str, str]:
    return fact.pipeline, fact.kind, fact.subject, fact.actor


def _digest(row: Mapping[str, Any]) -> str:
    names = ("sequence", "pipeline", "kind", "subject", "actor", "detail", "once", "previous")
    return digest_json([row["at"].isoformat(), *(row[name] for name in names)])


def _aware(moment: datetime) -> datetime:
    # SQLite gives naive times back; all of ours were written in UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
