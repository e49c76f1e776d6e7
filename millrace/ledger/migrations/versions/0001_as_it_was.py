"""The ledger as Millrace 0.1 made it: tables for incidents, checks, decisions and costs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create what is absent: a database of that time has no revision and has the tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "incidents",
        sa.Column("key", sa.String(80), primary_key=True),
        sa.Column("pipeline", sa.String(63), nullable=False),
        sa.Column("version", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("window_start", moment, nullable=False),
        sa.Column("window_end", moment, nullable=False),
        sa.Column("opened_at", moment, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("response", sa.String(80)),
        sa.Column("outcome", sa.String(40)),
        if_not_exists=True,
    )
    op.create_table(
        "checks",
        sa.Column("pipeline", sa.String(63), primary_key=True),
        sa.Column("window_start", moment, primary_key=True),
        sa.Column("version", sa.String(40), primary_key=True),
        sa.Column("window_end", moment, nullable=False),
        sa.Column("bad", sa.Boolean, nullable=False),
        sa.Column("verdicts", sa.Text, nullable=False),
        sa.Column("checked_at", moment, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", moment, nullable=False),
        sa.Column("pipeline", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(160), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "costs",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", moment, nullable=False),
        sa.Column("pipeline", sa.String(63), nullable=False),
        sa.Column("part", sa.String(40), nullable=False),
        sa.Column("run", sa.String(80), nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("amount", sa.Float, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        if_not_exists=True,
    )
    op.create_index("ix_costs_pipeline", "costs", ["pipeline"], if_not_exists=True)
