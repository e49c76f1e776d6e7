"""What the ledger's tests share: facts, workers that begin at the same moment, and a hand that tampers."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from millrace.ledger import Incident, Ledger
from millrace.window import Window

START = datetime(2024, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)

_barrier: Any = None


def week(number: int) -> Window:
    return Window(START + number * WEEK, START + (number + 1) * WEEK)


INCIDENT = Incident("tiny", "3", "drift", week(0), {"reasons": ["moved"]})


def engine(url: str) -> sa.Engine:
    """A way into the database that knows nothing of the ledger."""
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)


def tamper(url: str, *statements: str) -> None:
    """Change what is stored, as somebody can who owns the database: without its triggers."""
    with engine(url).begin() as connection:
        if connection.dialect.name == "sqlite":
            triggers = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars()
            for name in triggers.all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("ALTER TABLE entries DISABLE TRIGGER USER")
        for statement in statements:
            connection.exec_driver_sql(statement)


def at_once(url: str, work: Callable[[Ledger, int], Any], workers: int = 4) -> list[Any]:
    """`work` by several threads, each with a ledger of its own, all starting at the same time."""
    barrier = threading.Barrier(workers)

    def one(number: int) -> Any:
        ledger = Ledger(url)
        barrier.wait(20)
        try:
            return work(ledger, number)
        finally:
            ledger.close()

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(workers)))


def processes_at_once(url: str, work: Callable[[Ledger, int], Any], workers: int = 4) -> list[Any]:
    """As `at_once`, by processes; `work` is a function of this module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ledgers"])
    barrier = context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, _join, (barrier,)) as pool:
        return list(pool.map(_one, [url] * workers, [work] * workers, range(workers)))


def _join(barrier: Any) -> None:
    global _barrier  # noqa: PLW0603 - a barrier reaches a process only while it starts
    _barrier = barrier


def _one(url: str, work: Callable[[Ledger, int], Any], number: int) -> Any:
    ledger = Ledger(url)
    _barrier.wait(60)
    try:
        return work(ledger, number)
    finally:
        ledger.close()


def note(ledger: Ledger, number: int) -> None:
    for turn in range(10):
        ledger.decide("tiny", "noted", f"{number}-{turn}", {})


def count(ledger: Ledger, _number: int) -> int:
    return len(ledger.entries())


def spend_budget(ledger: Ledger, number: int) -> list[bool]:
    """Try to open five incidents where three are allowed in all."""

    def allowed(ends: Sequence[datetime]) -> bool:
        return len(ends) < 3

    mine = [Incident("tiny", "3", f"kind-{number}", week(turn), {}) for turn in range(5)]
    return [ledger.outbox.open_when(incident, allowed) for incident in mine]
