"""A ledger as Millrace made it before it had a journal: its tables, and rows of each kind."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from tests.ledgers import INCIDENT, START, engine, week

_OLD = sa.MetaData()
_MOMENT = sa.DateTime(timezone=True)

INCIDENTS = sa.Table(
    "incidents",
    _OLD,
    sa.Column("key", sa.String(80), primary_key=True),
    sa.Column("pipeline", sa.String(63), nullable=False, index=True),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("window_start", _MOMENT, nullable=False),
    sa.Column("window_end", _MOMENT, nullable=False),
    sa.Column("opened_at", _MOMENT, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("response", sa.String(80)),
    sa.Column("outcome", sa.String(40)),
)
CHECKS = sa.Table(
    "checks",
    _OLD,
    sa.Column("pipeline", sa.String(63), primary_key=True),
    sa.Column("window_start", _MOMENT, primary_key=True),
    sa.Column("version", sa.String(40), primary_key=True),
    sa.Column("window_end", _MOMENT, nullable=False),
    sa.Column("bad", sa.Boolean, nullable=False),
    sa.Column("verdicts", sa.Text, nullable=False),
    sa.Column("checked_at", _MOMENT, nullable=False),
)
DECISIONS = sa.Table(
    "decisions",
    _OLD,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", _MOMENT, nullable=False),
    sa.Column("pipeline", sa.String(63), nullable=False, index=True),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("subject", sa.String(160), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.UniqueConstraint("pipeline", "kind", "subject", "detail", name="decided_once"),
)
COSTS = sa.Table(
    "costs",
    _OLD,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", _MOMENT, nullable=False),
    sa.Column("pipeline", sa.String(63), nullable=False, index=True),
    sa.Column("part", sa.String(40), nullable=False),
    sa.Column("run", sa.String(80), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("amount", sa.Float, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
)


def make(url: str) -> None:
    """Two promotions and a rollback, two checks, three incidents (open, answered, closed), two costs."""
    hour = timedelta(hours=1)
    with engine(url).begin() as connection:
        for table in _OLD.sorted_tables:
            connection.execute(CreateTable(table))
            for index in table.indexes:
                connection.execute(CreateIndex(index))
        decided = [
            (0, "promoted", "1", {"package": "sha256:1", "observed": 0.7, "reasons": ["the first"]}),
            (2, "promoted", "2", {"package": "sha256:2", "observed": 0.8, "reasons": ["better"]}),
            (3, "refused", "3", {"package": "sha256:3"}),
            (5, "rolled_back", "1", {"from": "2", "to": "1", "run": "run-9"}),
        ]
        for hours, kind, subject, detail in decided:
            row = {"at": START + hours * hour, "pipeline": "tiny", "kind": kind, "subject": subject}
            connection.execute(DECISIONS.insert().values(**row, detail=json.dumps(detail, sort_keys=True)))
        for number in range(2):
            window = week(number)
            connection.execute(
                CHECKS.insert().values(
                    pipeline="tiny", version="2", window_start=window.start, window_end=window.end, bad=number == 1,
                    verdicts=json.dumps([{"gate": "drift"}]), checked_at=window.end,
                )
            )  # fmt: skip
        for number, (response, outcome) in enumerate([(None, None), ("run-1", None), ("run-2", "promoted")]):
            window = week(number)
            connection.execute(
                INCIDENTS.insert().values(
                    key=replace(INCIDENT, window=window).key, pipeline="tiny", version="3", kind="drift",
                    window_start=window.start, window_end=window.end, opened_at=window.end,
                    evidence=json.dumps(dict(INCIDENT.evidence)), response=response, outcome=outcome,
                )
            )  # fmt: skip
        for amount in (1.5, 2.0):
            connection.execute(
                COSTS.insert().values(
                    at=START, pipeline="tiny", part="train", run="run-1", seconds=1.0, amount=amount, currency="USD"
                )
            )
