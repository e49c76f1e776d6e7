"""Fencing: a pipeline has a slot for training and one for what it serves; whoever changes either holds its slot.

A token proves it: the sequence number of the entry by which the slot was taken, so a later holder's is higher. A run
that was killed and goes on takes the slot again and gets a new token: what it was before, should it still live
somewhere (a zombie), can publish nothing. Where a decision is an entry of the ledger, proof and entry are one
transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from millrace.errors import FencedError
from millrace.faults import fault_point
from millrace.ledger.database import Database
from millrace.ledger.journal import Entry, Fact, append, newest

Slot = Literal["training", "serving"]


@dataclass(frozen=True, slots=True)
class Token:
    """Proof that a run holds a pipeline's slot."""

    pipeline: str
    slot: Slot
    number: int
    holder: str


class Slots:
    """The slots of all pipelines."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, pipeline: str, slot: Slot, holder: str, *, instead_of: str | None = None) -> Token | str:
        """Take the slot for run `holder`; who holds it, when that is somebody else.

        The holder itself gets it again, with a new token. `instead_of` names a holder that is known to be gone.
        """
        with fault_point("slot.take"), self._database.write() as connection:
            held = _held(connection, pipeline, slot)
            if held is not None and held.subject not in (holder, instead_of):
                return held.subject
            before = {} if held is None else {"replaces": held.sequence}
            entry, _ = append(connection, Fact(pipeline, taken(slot), holder, before, actor=holder))[0]
        return Token(pipeline, slot, entry.sequence, holder)

    def release(self, token: Token) -> None:
        """Give the slot back; a token that was replaced has nothing to give."""
        with fault_point("slot.release"), self._database.write() as connection:
            held = _held(connection, token.pipeline, token.slot)
            if held is not None and held.sequence == token.number:
                detail = {"token": token.number}
                append(connection, Fact(token.pipeline, released(token.slot), token.holder, detail, token.holder))

    def holder(self, pipeline: str, slot: Slot) -> str | None:
        """The run that holds the slot, or None."""
        with self._database.read() as connection:
            held = _held(connection, pipeline, slot)
        return None if held is None else held.subject

    def require(self, token: Token) -> None:
        """Prove that `token` still holds.

        Raises:
            FencedError: another run, or a later life of the same, holds the slot now.
        """
        with self._database.read() as connection:
            require(connection, token)


def require(connection: sa.Connection, token: Token) -> None:
    """As `Slots.require`, inside the transaction that publishes."""
    held = _held(connection, token.pipeline, token.slot)
    if held is None or held.sequence != token.number:
        now = "nobody" if held is None else f"run {held.subject} with token {held.sequence}"
        raise FencedError(
            f"run {token.holder} no longer holds the {token.slot} slot of pipeline '{token.pipeline}'",
            got=f"token {token.number}; the slot is held by {now}",
            next="nothing: what it was about to publish is dropped, and the holder goes on",
        )


def taken(slot: Slot) -> str:
    """The kind of the entry by which a slot is taken."""
    return f"{slot}_slot_taken"


def released(slot: Slot) -> str:
    """The kind of the entry by which a slot is given back."""
    return f"{slot}_slot_released"


def _held(connection: sa.Connection, pipeline: str, slot: Slot) -> Entry | None:
    last = newest(connection, pipeline, taken(slot), released(slot))
    return last if last is not None and last.kind == taken(slot) else None
