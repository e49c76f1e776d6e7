"""The ledger as a whole: what was decided, what served when, what was spent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from millrace.errors import ConflictError
from millrace.faults import fault_point
from millrace.ledger import journal, outbox
from millrace.ledger.database import Database
from millrace.ledger.heartbeats import Heartbeats
from millrace.ledger.journal import SYSTEM, Entry, Fact
from millrace.ledger.outbox import Outbox
from millrace.ledger.slots import Slots, Token, require
from millrace.ledger.tables import COSTS, ENTRIES
from millrace.storage import digest_json
from millrace.traffic_rules import TrafficRules
from millrace.window import Window, stamp, utc

SERVING = "serving"
TRAFFIC = "traffic"
REGISTERED = "registered"
WINDOW_CHECKED = "window_checked"


@dataclass(frozen=True, slots=True)
class CheckRecord:
    """The judgement of one window, kept so that K of N can be counted."""

    pipeline: str
    version: str
    window: Window
    bad: bool
    verdicts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TrafficRecord:
    """By which rules several versions answer, and which packages those beside the primary are."""

    entry: Entry
    rules: TrafficRules
    packages: Mapping[str, str]


class Ledger:
    """Building one opens nothing; the first call creates or migrates the schema."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self.outbox = Outbox(self._database)
        self.slots = Slots(self._database)
        self.heartbeats = Heartbeats(self._database)

    def close(self) -> None:
        self._database.close()

    # The journal ----------------------------------------------------------------------------------------------

    def append(self, *facts: Fact, token: Token | None = None) -> list[tuple[Entry, bool]]:
        """Append facts, all or none; for each its entry, and whether it is new.

        Raises:
            FencedError: `token` no longer holds; nothing was appended.
        """
        with fault_point("ledger.append"), self._database.write() as connection:
            if token is not None:
                require(connection, token)
            return journal.append(connection, *facts)

    def claim(
        self, fact: Fact, *more: Fact, token: Token | None = None, prove: Callable[[], None] = lambda: None
    ) -> Entry:
        """Append `fact` and `more`, unless another actor was faster with a fact of the same `once`: then nothing.

        `prove` is called when nobody else can append any more; it may read, and what it raises ends the attempt.

        Returns:
            The entry that stands; whose it is says its actor.

        Raises:
            FencedError: `token` no longer holds; nothing was appended.
        """
        with fault_point("ledger.claim"), self._database.write() as connection:
            if token is not None:
                require(connection, token)
            prove()
            entry, _ = journal.append(connection, fact)[0]
            if entry.actor == fact.actor:
                journal.append(connection, *more)
        return entry

    def entries(
        self, pipeline: str | None = None, *kinds: str, subject: str | None = None, until: datetime | None = None
    ) -> list[Entry]:
        """Entries that match, oldest first."""
        with self._database.read() as connection:
            return journal.select(connection, pipeline=pipeline, kinds=kinds, subject=subject, until=until)

    def without_end(self, kinds: Collection[str], ends: Collection[str], *, since: datetime, or_by: str) -> list[Entry]:
        """Entries of `kinds` whose subject has no entry of the kinds `ends`, oldest first: those from `since` on, and
        those of the actor `or_by` from any time. What has its end is not read, so asking often costs nothing."""
        end = ENTRIES.alias()
        query = ENTRIES.select().where(
            ENTRIES.c.kind.in_(kinds),
            sa.or_(ENTRIES.c.at >= utc(since), ENTRIES.c.actor == or_by),
            ~sa.exists().where(end.c.kind.in_(ends), end.c.subject == ENTRIES.c.subject),
        )
        with self._database.read() as connection:
            return journal.entries_of(connection.execute(query.order_by(ENTRIES.c.sequence)))

    def newest(self, pipeline: str, *kinds: str, until: datetime | None = None) -> Entry | None:
        """The newest entry of these kinds, or None."""
        with self._database.read() as connection:
            return journal.newest(connection, pipeline, *kinds, until=until)

    def verify(self, remembered: str | None = None) -> tuple[int, str]:
        """Walk the whole chain; the number of entries and the newest digest.

        Raises:
            DigestError: it was changed; the message names the first entry that is not as it was written. Or no entry
                has the digest `remembered` from an earlier walk: the newest were removed.
        """
        with self._database.read() as connection:
            found = journal.verify(connection, remembered)
            outbox.verify(connection)
        return found

    def decide(
        self,
        pipeline: str,
        kind: str,
        subject: str,
        detail: Mapping[str, Any],
        *,
        actor: str = SYSTEM,
        token: Token | None = None,
        once: str | None = None,
    ) -> Entry:
        """Append a decision and return it; the same one said twice (a run that is repeated) is kept once.

        Two of a pipeline and kind are the same that have the same `once`; without it, that agree in subject and detail.

        Raises:
            FencedError: `token` no longer holds.
        """
        once = once or digest_json([subject, detail])
        return self.append(Fact(pipeline, kind, subject, detail, actor, once), token=token)[0][0]

    def decisions(self, pipeline: str, kind: str) -> list[Entry]:
        """The pipeline's decisions of a kind, oldest first."""
        return self.entries(pipeline, kind)

    # What serves ----------------------------------------------------------------------------------------------

    def serve(self, pipeline: str, version: str, package: str, *, because: Entry, token: Token) -> Entry:
        """Record that `version` serves from now on; said again of the version that serves, it changes nothing.

        Raises:
            FencedError: `token` no longer holds.
        """
        with fault_point("ledger.serve"), self._database.write() as connection:
            require(connection, token)
            now = journal.newest(connection, pipeline, SERVING)
            if now is not None and (now.subject, now.detail.get("package")) == (version, package):
                return now
            detail = {"package": package, "because": because.sequence}
            return journal.append(connection, Fact(pipeline, SERVING, version, detail, token.holder))[0][0]

    def serving(self, pipeline: str, at: datetime | None = None) -> Entry | None:
        """The entry by which the version serves that serves now, or served at `at`; None before the first.

        Its subject is the version, `detail["package"]` the package's digest.
        """
        return self.newest(pipeline, SERVING, until=at)

    def divide(
        self,
        pipeline: str,
        version: str,
        rules: TrafficRules,
        packages: Mapping[str, str],
        *,
        actor: str,
        token: Token,
        once: str | None = None,
    ) -> Entry:
        """Record by which rules versions answer beside `version`, the one that serves, until another one serves.

        `packages` maps each version beside it to its package's digest. Said twice with the same `once` it is kept once;
        without it, said twice by one run.

        Raises:
            FencedError: `token` no longer holds.
            ConflictError: another version serves.
        """
        with fault_point("ledger.divide"), self._database.write() as connection:
            require(connection, token)
            now = journal.newest(connection, pipeline, SERVING)
            if now is None or now.subject != version:
                raise ConflictError(
                    f"the traffic of '{pipeline}' is not divided: another version serves",
                    got="none" if now is None else now.subject,
                    allowed=version,
                    next="look at what serves, then ask again",
                )
            detail = {
                "serving": now.sequence,
                "rules": rules.as_json(),
                "packages": dict(packages),
                "once": once or token.holder,
            }
            fact = Fact(pipeline, TRAFFIC, version, detail, actor, once or token.holder)
            return journal.append(connection, fact)[0][0]

    def traffic(self, pipeline: str) -> TrafficRecord | None:
        """The rules by which versions answer beside the one that serves; None: it answers alone.

        Raises:
            DigestError: the entry does not hold what it should.
        """
        with self._database.read() as connection:
            serving = journal.newest(connection, pipeline, SERVING)
            found = journal.newest(connection, pipeline, TRAFFIC)
        if serving is None or found is None:
            return None
        with journal.sound():
            if found.detail["serving"] != serving.sequence:
                return None
            return TrafficRecord(found, TrafficRules.from_json(found.detail["rules"]), dict(found.detail["packages"]))

    def registered(self, pipeline: str, package: str) -> str | None:
        """The number of the model version that `package` (a digest) was registered as, or None."""
        found = [entry for entry in self.entries(pipeline, REGISTERED) if entry.detail.get("package") == package]
        return found[0].subject if found else None

    def all_serving(self) -> list[Entry]:
        """For each pipeline that serves a version, the entry by which it does."""
        newest = (
            sa.select(sa.func.max(ENTRIES.c.sequence)).where(ENTRIES.c.kind == SERVING).group_by(ENTRIES.c.pipeline)
        )
        with self._database.read() as connection:
            return journal.entries_of(connection.execute(ENTRIES.select().where(ENTRIES.c.sequence.in_(newest))))

    def entry(self, sequence: int) -> Entry | None:
        """The entry with this number, or None."""
        with self._database.read() as connection:
            found = journal.entries_of(connection.execute(ENTRIES.select().where(ENTRIES.c.sequence == sequence)))
        return found[0] if found else None

    # Checks ---------------------------------------------------------------------------------------------------

    def record_check(self, check: CheckRecord, run: str) -> None:
        """Record the judgement of a window by `run`, once a run; of several of one window, the newest counts."""
        detail = {"version": check.version, "bad": check.bad, "verdicts": list(check.verdicts)}
        once = f"{run}:{check.pipeline}:{check.window.key}"
        self.append(Fact(check.pipeline, WINDOW_CHECKED, check.window.key, detail, run, once))

    def checks(self, pipeline: str, until: datetime, limit: int) -> list[CheckRecord]:
        """The newest `limit` judged windows that ended at or before `until`, newest first, by when they begin."""
        query = (
            sa.select(ENTRIES.c.subject, sa.func.max(ENTRIES.c.sequence))
            .where(ENTRIES.c.kind == WINDOW_CHECKED, ENTRIES.c.pipeline == pipeline)
            .group_by(ENTRIES.c.subject)
            .order_by(ENTRIES.c.subject.desc())
            .limit(limit)
        )
        judged: list[int] = []
        # A window's key begins with its start, so that keys sort by time, and what begins later cannot have ended.
        key = stamp(utc(until))
        with self._database.read() as connection:
            while page := connection.execute(query.where(ENTRIES.c.subject < key)).all():
                with journal.sound():
                    judged += [sequence for subject, sequence in page if Window.from_key(subject).end <= utc(until)]
                if len(judged) >= limit:
                    break
                key = page[-1].subject
            rows = connection.execute(ENTRIES.select().where(ENTRIES.c.sequence.in_(judged[:limit])))
            found = journal.entries_of(rows)
        return sorted(map(_check, found), key=lambda check: check.window, reverse=True)

    # Costs ----------------------------------------------------------------------------------------------------

    def spend(self, pipeline: str, part: str, run: str, *, seconds: float, amount: float, currency: str) -> None:
        """Append the cost of `seconds` of `part` (stage, train, evaluate, …) in run `run`."""
        row = {"pipeline": pipeline, "part": part, "run": run, "seconds": seconds, "amount": amount}
        with fault_point("ledger.spend"), self._database.write() as connection:
            connection.execute(COSTS.insert().values(at=datetime.now(UTC), currency=currency, **row))

    def spent(self, pipeline: str) -> dict[str, float]:
        """Money spent so far, by run."""
        query = (
            sa.select(COSTS.c.run, sa.func.sum(COSTS.c.amount))
            .where(COSTS.c.pipeline == pipeline)
            .group_by(COSTS.c.run)
        )
        with self._database.read() as connection:
            return {run: float(amount) for run, amount in connection.execute(query)}


def _check(entry: Entry) -> CheckRecord:
    with journal.sound():
        window, detail = Window.from_key(entry.subject), entry.detail
        return CheckRecord(entry.pipeline, detail["version"], window, detail["bad"], tuple(detail["verdicts"]))
