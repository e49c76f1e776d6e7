"""The journal: entries that are only ever added, each bound to the one before by its digest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from millrace.errors import DigestError, shorten
from millrace.ledger.tables import ENTRIES
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
    newest_first = fetch(connection, ENTRIES.select().order_by(ENTRIES.c.sequence.desc()).limit(1))
    head = newest_first[0] if newest_first else None
    sequence, digest = (head.sequence, head.digest) if head is not None else (0, GENESIS)
    # The order of entries is the order of their times, whatever the clocks of the writers say.
    at = datetime.now(UTC) if head is None else max(datetime.now(UTC), head.at)
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
            "detail": json.dumps(fact.detail, sort_keys=True, default=str),
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
    return fetch(connection, query)


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
        found = _digest(row._asdict())
        if (row.sequence, row.previous, row.digest) != (count + 1, digest, found):
            raise DigestError(
                f"the ledger was changed at entry {count + 1}",
                got=f"entry {row.sequence}, digest {row.digest[:12]}, after {row.previous[:12]}",
                allowed=f"entry {count + 1}, digest {found[:12]}, after {digest[:12]}",
                next="compare with a backup of the ledger's database; nothing after this entry can be trusted",
            )
        count, digest = count + 1, row.digest
    return count, digest


def fetch(connection: sa.Connection, query: sa.Select[Any]) -> list[Entry]:
    """The entries that a query for whole rows of `entries` finds.

    Raises:
        DigestError: one of them is not as it was written; the message names it.
    """
    return [_entry_of(row) for row in _rows(connection, query)]


@contextmanager
def holding(entry: Entry, *names: str) -> Iterator[Mapping[str, Any]]:
    """The detail of `entry`, with `names` in it, read inside the block.

    Raises:
        DigestError: it does not hold what an entry of its kind holds.
    """
    try:
        for name in names:
            entry.detail[name]
        yield entry.detail
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DigestError(
            f"entry {entry.sequence} ('{shorten(entry.kind)}') of the ledger does not hold what its kind holds",
            got=f"{type(error).__name__}: {error}",
            next="compare with a backup of the ledger's database",
        ) from error


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
    try:
        return connection.execute(query).all()
    except (ValueError, TypeError) as error:  # a time that is none, or a cell of another type
        raise DigestError(
            "the ledger has an entry that cannot be read", got=str(error), next="compare with a backup of its database"
        ) from error


def _entry_of(row: sa.Row[Any]) -> Entry:
    """The entry in `row`; nobody acts on one that was changed."""
    try:
        detail = json.loads(row.detail)
        is_whole = _digest(row._asdict()) == row.digest and isinstance(detail, dict)
    except (ValueError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise DigestError(
            f"entry {shorten(str(row.sequence))} of the ledger was changed after it was written",
            next="compare with a backup of the ledger's database; `Ledger.verify` walks the whole chain",
        )
    return Entry(row.sequence, _aware(row.at), row.pipeline, row.kind, row.subject, row.actor, detail, row.digest)


def _walk(connection: sa.Connection) -> Iterator[Any]:
    last = 0
    while rows := _rows(
        connection, ENTRIES.select().where(ENTRIES.c.sequence > last).order_by(ENTRIES.c.sequence).limit(_BATCH)
    ):
        yield from rows
        last = rows[-1].sequence


def _by_once(connection: sa.Connection, once: str) -> Entry | None:
    found = fetch(connection, ENTRIES.select().where(ENTRIES.c.once == once))
    return found[0] if found else None


def _named(fact: Fact) -> tuple[str, str, str, str]:
    return fact.pipeline, fact.kind, fact.subject, fact.actor


def _digest(row: Mapping[str, Any]) -> str:
    names = ("sequence", "pipeline", "kind", "subject", "actor", "detail", "once", "previous")
    return digest_json([_aware(row["at"]).isoformat(), *(row[name] for name in names)])


def _aware(moment: datetime) -> datetime:
    # SQLite gives naive times back; all of ours were written in UTC.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
