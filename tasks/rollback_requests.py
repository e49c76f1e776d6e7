"""Asking for a rollback, or another change of what serves, by an entry of the ledger. Light to import: whoever asks is
in a hurry.

The standby (`tasks.standby`) acts on a request within a moment; where there is none, whoever asked acts itself. Both
do it as one run, the request's, so the slot and its token let one of them finish and the other change nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Self

from millrace.errors import MillraceError, error_named
from millrace.ledger import Entry, Fact, Ledger
from tasks.run_kinds import LOCAL

REQUESTED = "rollback_requested"
ENDED = "rollback_ended"
#: Who asks, when nobody did but the guard.
GUARD = "guard"
#: Below the state folder's `run`: touched by the standby while it is ready.
READY = "standby.ready"
STALE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `id` is the run that does it."""

    #: The kinds of the entries that ask for it, and that say what came of it.
    requested: ClassVar[str]
    ended: ClassVar[str]

    id: str
    pipeline: str
    requested_by: str

    def fact(self) -> Fact:
        """The entry that asks; a second one with the same id changes nothing."""
        return Fact(self.pipeline, self.requested, self.id, self.detail(), self.requested_by, once=self.id)

    def detail(self) -> dict[str, Any]:
        """What the entry holds, from which `of` reads it."""
        return {name: value for name, value in asdict(self).items() if name not in ("id", "pipeline")}

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """The request of an entry."""
        return cls(entry.subject, entry.pipeline, **entry.detail)


@dataclass(frozen=True, slots=True)
class RollbackRequest(Request):
    """A rollback; the fields are as in `tasks.rollout.roll_back`."""

    requested: ClassVar[str] = REQUESTED
    ended: ClassVar[str] = ENDED

    to_version: str | None = None
    only_while: int | None = None
    reason: str = ""


def new_id(key: str | None = None, what: str = "rollback") -> str:
    """The id of a request: the same for the same `key`, so that what is asked twice is asked once."""
    return f"{LOCAL}{what}-{key or uuid.uuid4().hex}"


def pending(ledger: Ledger, *kinds: type[Request]) -> list[Request]:
    """The requests that nobody has brought to an end and nobody works on, oldest first; of `kinds`, else rollbacks.

    What a person asked for and did not get is soon forgotten: it would come as a surprise.
    """
    by_kind = {kind.requested: kind for kind in kinds or (RollbackRequest,)}
    fresh = datetime.now(UTC) - timedelta(seconds=STALE_SECONDS)
    ends = [kind.ended for kind in by_kind.values()]
    open_ = [by_kind[entry.kind].of(entry) for entry in ledger.without_end(by_kind, ends, since=fresh, or_by=GUARD)]
    busy = {beat.run for beat in ledger.heartbeats.all() if not beat.is_gone} if open_ else set()
    return [request for request in open_ if request.id not in busy]


def is_worked_on(ledger: Ledger, request: Request) -> bool:
    """Whether a process that lives has begun with it."""
    return any(beat.run == request.id and not beat.is_gone for beat in ledger.heartbeats.all())


def end(ledger: Ledger, request: Request, outcome: dict[str, Any] | MillraceError) -> None:
    """Record what came of it: what serves, or why nothing changed."""
    if isinstance(outcome, MillraceError):
        outcome = {"error": type(outcome).__name__, "message": str(outcome)}
    ledger.append(Fact(request.pipeline, request.ended, request.id, outcome, request.requested_by, once=request.id))


def outcome_of(ledger: Ledger, request: Request) -> dict[str, Any] | None:
    """What came of it; None while nothing has.

    Raises:
        MillraceError: whatever ended it; nothing changed.
    """
    found = ledger.entries(request.pipeline, request.ended, subject=request.id)
    if not found:
        return None
    detail = dict(found[0].detail)
    if "error" in detail:
        raise error_named(detail["error"], detail["message"]) or MillraceError(detail["message"])
    return detail
