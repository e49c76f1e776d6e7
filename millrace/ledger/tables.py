"""The ledger's tables, as its newest migration leaves them.

`entries` is the record: append-only (the database refuses changes), each entry bound to the one before by its digest.
Everything that was decided is an entry; what is asked of it (open incidents, who holds a slot, what served when) is
read from it. `costs` is append-only too. The other two are no record: `heartbeats` says which flow runs live now, and
`unanswered` is an index of the incidents without an answer, kept in the transactions that open and answer them, so that
looking for them costs nothing however long the ledger is.
"""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()

ENTRIES = sa.Table(
    "entries",
    METADATA,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("pipeline", sa.String(63), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(160), nullable=False),
    sa.Column("actor", sa.String(160), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("once", sa.String(64), unique=True),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Index("entries_by_kind", "pipeline", "kind", "sequence"),
    sa.Index("entries_by_subject", "kind", "subject"),
)
COSTS = sa.Table(
    "costs",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("pipeline", sa.String(63), nullable=False, index=True),
    sa.Column("part", sa.String(40), nullable=False),
    sa.Column("run", sa.String(80), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("amount", sa.Float, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
)
UNANSWERED = sa.Table(
    "unanswered",
    METADATA,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("pipeline", sa.String(63), nullable=False),
)
HEARTBEATS = sa.Table(
    "heartbeats",
    METADATA,
    sa.Column("run", sa.String(80), primary_key=True),
    sa.Column("flow", sa.String(40), nullable=False),
    sa.Column("pipeline", sa.String(63), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("beat", sa.BigInteger, nullable=False),
)
