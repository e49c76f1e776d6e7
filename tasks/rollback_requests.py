"""Asking for a rollback, by an entry of the ledger. Light to import: whoever asks is in a hurry.

The standby (`tasks.standby`) acts on a request within a moment; where there is none, whoever asked acts itself. Both
do it as one run, the request's, so the slot and its token let one of them finish and the other change nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

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
class RollbackRequest:
    """What is asked for. `id` is the run that does it; the other fields are as in `tasks.rollout.roll_back`."""

    id: str
    pipeline: str
    requested_by: str
    to_version: str | None = None
    only_while: int | None = None
    reason: str = ""

    def fact(self) -> Fact:
        """The entry that asks; a second one with the same id changes nothing."""
        detail = {name: value for name, value in asdict(self).items() if name not in ("id", "pipeline")}
        return Fact(self.pipeline, REQUESTED, self.id, detail, self.requested_by, once=self.id)

    @classmethod
    def of(cls, entry: Entry) -> RollbackRequest:
        return cls(entry.subject, entry.pipeline, **entry.detail)


def new_id(key: str | None = None) -> str:
    """The id of a request: the same for the same `key`, so that what is asked twice is asked once."""
    return f"{LOCAL}rollback-{key or uuid.uuid4().hex}"


def pending(ledger: Ledger) -> list[RollbackRequest]:
    """The requests that nobody has brought to an end and nobody works on, oldest first.

    What a person asked for and did not get is soon forgotten: it would come as a surprise.
    """
    entries = ledger.entries(None, REQUESTED, ENDED)
    ended = {entry.subject for entry in entries if entry.kind == ENDED}
    fresh = datetime.now(UTC) - timedelta(seconds=STALE_SECONDS)
    open_ = [
        RollbackRequest.of(entry)
        for entry in entries
        if entry.kind == REQUESTED and entry.subject not in ended and (entry.at >= fresh or entry.actor == GUARD)
    ]
    busy = {beat.run for beat in ledger.heartbeats.all() if not beat.is_gone} if open_ else set()
    return [request for request in open_ if request.id not in busy]


def is_worked_on(ledger: Ledger, request: RollbackRequest) -> bool:
    """Whether a process that lives has begun with it."""
    return any(beat.run == request.id and not beat.is_gone for beat in ledger.heartbeats.all())


def end(ledger: Ledger, request: RollbackRequest, outcome: dict[str, Any] | MillraceError) -> None:
    """Record what came of it: what serves, or why nothing changed."""
    if isinstance(outcome, MillraceError):
        outcome = {"error": type(outcome).__name__, "message": str(outcome)}
    ledger.append(Fact(request.pipeline, ENDED, request.id, outcome, request.requested_by, once=request.id))


def outcome_of(ledger: Ledger, request: RollbackRequest) -> dict[str, Any] | None:
    """What came of it; None while nothing has.

    Raises:
        MillraceError: whatever ended it; nothing changed.
    """
    found = ledger.entries(request.pipeline, ENDED, subject=request.id)
    if not found:
        return None
    detail = dict(found[0].detail)
    if "error" in detail:
        raise error_named(detail["error"], detail["message"]) or MillraceError(detail["message"])
    return detail
