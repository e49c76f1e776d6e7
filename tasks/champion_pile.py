"""Which version served before, as the ledger has it. Light to import."""

from __future__ import annotations

from millrace.ledger import Entry, Ledger


def served_before(ledger: Ledger, pipeline: str) -> Entry | None:
    """The entry of the version that a rollback goes back to; None when there is none.

    Each promotion puts a version on a pile, each rollback takes the versions above its own away.
    """
    pile: list[Entry] = []
    for entry in ledger.entries(pipeline, "serving"):
        below = next((index for index, known in enumerate(pile) if known.subject == entry.subject), None)
        pile = [*pile, entry] if below is None else pile[: below + 1]
    return pile[-2] if len(pile) > 1 else None
