"""The journal: entries that are only ever added, each bound to the one before by its digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from millrace.errors import ConfigError, DigestError
from millrace.ledger.tables import ENTRIES
from millrace.secrets import redact_value
from millrace.storage import digest_json
from millrace.window import utc

#: What the first entry names as the one before it.
GENESIS = "0" * 64

#: Who decided, where no person and no flow run is named.
SYSTEM = "millrace"

_BATCH = 1000
# SQLite takes this many variables in a statement, whatever it was compiled with.
_VARIABLES = 900
# PostgreSQL counts the characters of a text, SQLite does not: what one takes must be what the other takes.
_WIDTHS = {"pipeline": 63, "kind": 40, "subject": 160, "actor": 160}


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
    """What is to be appended. Of a pipeline's facts of a kind with the same `once`, the first stays and the others
    change nothing.

    Raises:
        ConfigError: a name in it is too long for its column, or has characters that are not printable.
    """

    pipeline: str
    kind: str
    subject: str
    detail: Mapping[str, Any]
    actor: str = SYSTEM
    once: str | None = None

    def __post_init__(self) -> None:
        for name, width in _WIDTHS.items():
            value = str(getattr(self, name))
            if len(value) > width or not value.isprintable():
                raise ConfigError(
                    f"the ledger cannot take the {name} of '{self.kind[:40]}'",
                    got=value,
                    allowed=f"up to {width} printable characters",
                    next="shorten or correct it",
                )


def append(connection: sa.Connection, *facts: Fact, at: datetime | None = None) -> list[tuple[Entry, bool]]:
    """Append the facts in order; for each its entry, and whether it is new. Needs a transaction that is alone.

    `at` is for what an older record is carried over from; otherwise the time is now.
    """
    head = next(iter(select(connection, newest_first=True, limit=1)), None)
    sequence, digest = (head.sequence, head.digest) if head is not None else (0, GENESIS)
    # The order of entries is the order of their times, whatever the clocks of the writers say.
    moment = utc(at or datetime.now(UTC))
    if head is not None:
        moment = max(moment, head.at)
    marks = [None if fact.once is None else digest_json([fact.pipeline, fact.kind, fact.once]) for fact in facts]
    known = _by_once(connection, [mark for mark in marks if mark is not None])
    done, rows = [], []
    for fact, once in zip(facts, marks, strict=True):
        if once in known:
            done.append((known[once], False))
            continue
        sequence += 1
        row = {
            "sequence": sequence,
            "at": moment,
            "pipeline": fact.pipeline,
            "kind": fact.kind,
            "subject": fact.subject,
            "actor": fact.actor,
            "detail": json.dumps(redact_value(fact.detail), sort_keys=True, default=str),
            "once": once,
            "previous": digest,
        }
        row["digest"] = digest = _digest(row)
        rows.append(row)
        names = (fact.pipeline, fact.kind, fact.subject, fact.actor)
        entry = Entry(sequence, moment, *names, json.loads(str(row["detail"])), digest)
        done.append((entry, True))
        if once is not None:
            known[once] = entry
    if rows:
        connection.execute(ENTRIES.insert(), rows)
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
        # SQLite compares what is written, and drops the zone.
        query = query.where(ENTRIES.c.at <= utc(until))
    query = query.order_by(ENTRIES.c.sequence.desc() if newest_first else ENTRIES.c.sequence).limit(limit)
    return entries_of(connection.execute(query))


def newest(connection: sa.Connection, pipeline: str, *kinds: str, until: datetime | None = None) -> Entry | None:
    """The newest entry of these kinds, or None."""
    # One look a kind, at the end of an index; asked for together, a database reads and sorts them all.
    found = [
        entry
        for kind in kinds
        for entry in select(connection, pipeline=pipeline, kinds=[kind], until=until, newest_first=True, limit=1)
    ]
    return max(found, key=lambda entry: entry.sequence, default=None)


def verify(connection: sa.Connection, remembered: str | None = None) -> tuple[int, str]:
    """Walk the whole chain; the number of entries and the newest digest.

    The chain alone cannot show that its newest entries were removed: a digest that was `remembered` elsewhere can.

    Raises:
        DigestError: an entry was changed, removed or put between, and the message names the first; or no entry has
            the digest that is remembered.
    """
    count, digest, met = 0, GENESIS, remembered in (None, GENESIS)
    rows = _walk(connection)
    while True:
        try:
            row = next(rows, None)
            found = "" if row is None else _digest(row._mapping)
        except (ValueError, TypeError) as error:
            raise _changed(count + 1, f"a row that cannot be read: {error}", "what was written") from error
        if row is None:
            break
        if (row.sequence, row.previous, row.digest) != (count + 1, digest, found):
            raise _changed(count + 1, _link(row.sequence, row.digest, row.previous), _link(count + 1, found, digest))
        count, digest = count + 1, row.digest
        met = met or digest == remembered
    if not met:
        raise DigestError(
            "the ledger lost entries",
            got=f"{count} entries, the newest {digest[:12]}",
            allowed=f"a chain with {str(remembered)[:12]}",
            next="compare with a backup of the ledger's database",
        )
    return count, digest


def entries_of(rows: Iterable[Any]) -> list[Entry]:
    """Rows of `ENTRIES` as entries.

    Raises:
        DigestError: one cannot be read, or is not as it was written: nobody acts on it.
    """
    with sound():
        return [_entry_of(row) for row in rows]


@contextmanager
def sound() -> Iterator[None]:
    """Read what an entry holds inside the block.

    Raises:
        DigestError: it does not hold what it should.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise DigestError(
            "the ledger holds an entry that cannot be read",
            got=f"{type(error).__name__}: {error}",
            next="`millrace history NAME --verify` names the first entry that was changed",
        ) from error


def _entry_of(row: Any) -> Entry:
    detail = json.loads(row.detail)
    if not isinstance(detail, dict) or _digest(row._mapping) != row.digest:
        raise ValueError(f"entry {row.sequence} is not as it was written")
    return Entry(row.sequence, utc(row.at), row.pipeline, row.kind, row.subject, row.actor, detail, row.digest)


def _walk(connection: sa.Connection) -> Iterator[Any]:
    # Row by row, so that what cannot be read stops the walk where it lies; from the lowest number, whatever it is.
    query = ENTRIES.select().order_by(ENTRIES.c.sequence).limit(_BATCH)
    last = None
    while True:
        before = last
        for row in connection.execute(query if last is None else query.where(ENTRIES.c.sequence > last)):
            last = row.sequence
            yield row
        if last == before:
            return


def _changed(sequence: int, got: str, allowed: str) -> DigestError:
    return DigestError(
        f"the ledger was changed at entry {sequence}",
        got=got,
        allowed=allowed,
        next="compare with a backup of the ledger's database; nothing after this entry can be trusted",
    )


def _link(sequence: object, digest: object, previous: object) -> str:
    return f"entry {sequence}, digest {str(digest)[:12]}, after {str(previous)[:12]}"


def _by_once(connection: sa.Connection, marks: Sequence[str]) -> dict[str | None, Entry]:
    found: dict[str | None, Entry] = {}
    for first in range(0, len(marks), _VARIABLES):
        query = ENTRIES.select().where(ENTRIES.c.once.in_(marks[first : first + _VARIABLES]))
        with sound():
            found |= {row.once: _entry_of(row) for row in connection.execute(query)}
    return found


def _digest(row: Mapping[str, Any]) -> str:
    names = ("sequence", "pipeline", "kind", "subject", "actor", "detail", "once", "previous")
    return digest_json([utc(row["at"]).isoformat(), *(row[name] for name in names)])
