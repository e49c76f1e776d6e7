"""One append-only, hash-chained journal in the place of incidents, checks and decisions; heartbeats of flow runs."""

import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from millrace.ledger.journal import Fact, append
from millrace.storage import digest_json
from millrace.window import Window

revision = "0002"
down_revision = "0001"

_APPEND_ONLY = ("entries", "costs")


def upgrade() -> None:
    """Make the journal, carry what the old tables hold over, and have the database refuse changes."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "entries",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", moment, nullable=False),
        sa.Column("pipeline", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(160), nullable=False),
        sa.Column("actor", sa.String(160), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("once", sa.String(64), unique=True),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_index("entries_by_kind", "entries", ["pipeline", "kind", "sequence"])
    op.create_index("entries_by_subject", "entries", ["kind", "subject"])
    op.create_table(
        "heartbeats",
        sa.Column("run", sa.String(80), primary_key=True),
        sa.Column("flow", sa.String(40), nullable=False),
        sa.Column("pipeline", sa.String(63), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "unanswered",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("pipeline", sa.String(63), nullable=False),
    )
    _carry_over(op.get_bind())
    for table in ("incidents", "checks", "decisions"):
        op.drop_table(table)
    for table in _APPEND_ONLY:
        _refuse_changes(table)


def _carry_over(connection: sa.Connection) -> None:
    """Append what the old tables say, at the times they say."""
    packages: dict[tuple[str, str], str] = {}
    for at, fact in sorted(_old_facts(connection), key=lambda pair: pair[0]):
        entry = append(connection, fact, at=at)[0][0]
        served = (fact.pipeline, fact.subject)
        if fact.kind == "promoted":
            packages[served] = str(fact.detail.get("package", ""))
        if fact.kind in ("promoted", "rolled_back"):
            # A rollback did not say which package it went back to: the one that was promoted as that version.
            detail = {"package": packages.get(served, ""), "because": entry.sequence}
            append(connection, Fact(fact.pipeline, "serving", fact.subject, detail), at=at)
    connection.exec_driver_sql(
        "INSERT INTO unanswered SELECT sequence, pipeline FROM entries AS opened WHERE kind = 'incident_opened' AND "
        "NOT EXISTS (SELECT 1 FROM entries WHERE kind = 'incident_answered' AND subject = opened.subject)"
    )


def _old_facts(connection: sa.Connection) -> list[tuple[datetime, Fact]]:
    """What the old tables say, as facts with the times at which they were written."""
    found = []
    for row in _rows(connection, "decisions"):
        detail = json.loads(row["detail"])
        once = digest_json([row["subject"], detail])
        found.append((row["at"], Fact(row["pipeline"], row["kind"], row["subject"], detail, once=once)))
    for row in _rows(connection, "checks"):
        window = Window(row["window_start"], row["window_end"])
        detail = {"version": row["version"], "bad": bool(row["bad"]), "verdicts": json.loads(row["verdicts"])}
        found.append((row["checked_at"], Fact(row["pipeline"], "window_checked", window.key, detail)))
    for row in _rows(connection, "incidents"):
        window = Window(row["window_start"], row["window_end"])
        detail = {
            "version": row["version"],
            "kind": row["kind"],
            "window": window.key,
            "evidence": json.loads(row["evidence"]),
        }
        # When it was answered and closed was not written down.
        at, name, key = row["opened_at"], row["pipeline"], row["key"]
        found.append((at, Fact(name, "incident_opened", key, detail, once=key)))
        if row["response"] is not None:
            found.append((at, Fact(name, "incident_answered", key, {"response": row["response"]}, once=key)))
        if row["outcome"] is not None:
            found.append((at, Fact(name, "incident_closed", key, {"outcome": row["outcome"]})))
    return found


def _rows(connection: sa.Connection, table: str) -> list[dict[str, Any]]:
    reflected = sa.Table(table, sa.MetaData(), autoload_with=connection)
    rows = [dict(row._mapping) for row in connection.execute(reflected.select())]
    for row in rows:
        for name, value in row.items():
            if isinstance(value, datetime) and value.tzinfo is None:
                row[name] = value.replace(tzinfo=UTC)
    return rows


def _refuse_changes(table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION millrace_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION millrace_append_only()"
    )
