"""The ledger on PostgreSQL: all that holds on SQLite, and a server that is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType

import psycopg
import pytest

from millrace.errors import ServiceError
from millrace.ledger import Fact, Ledger
from millrace.ledger.database import HEAD
from tests.ledgers import INCIDENT, week
from tests.postgres import Postgres

_SHARED = ("test_journal", "test_outbox", "test_slots", "test_ledger", "test_heartbeats", "test_migrations")


@pytest.fixture(scope="session")
def new_url(postgres: Postgres) -> Callable[[], str]:
    """One ledger, emptied for each that asks: migrating one anew costs twenty times as much."""
    url = postgres.new_url()
    ledger = Ledger(url)
    assert ledger.entries() == []
    ledger.close()

    def make() -> str:
        with psycopg.connect(url) as connection:
            connection.execute("SET lock_timeout = '20s'")
            for table in ("entries", "costs"):
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
            connection.execute("TRUNCATE entries, costs, unanswered, heartbeats")
            for table in ("entries", "costs"):
                connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
            connection.execute(f"UPDATE ledger_schema SET version_num = '{HEAD}'".encode())
        return url

    return make


@pytest.fixture(scope="session")
def blank_url(postgres: Postgres) -> Callable[[], str]:
    return postgres.new_url


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    return new_url()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    made = Ledger(url)
    yield made
    made.close()


def _share(module: ModuleType) -> None:
    for name, value in vars(module).items():
        if name.startswith("test_") and callable(value):
            assert name not in globals(), f"two tests are called {name}"
            globals()[name] = value


for _name in _SHARED:
    pytest.register_assert_rewrite(f"tests.unit.millrace.ledger.{_name}")
    _share(__import__(f"tests.unit.millrace.ledger.{_name}", fromlist=[_name]))


# A server that goes away


def refused(ledger: Ledger) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        ledger.append(Fact("tiny", "noted", "lost", {}))
    assert caught.value.retryable
    assert "hush" not in str(caught.value)
    assert "does not answer" in caught.value.what
    return caught.value


@pytest.mark.parametrize("away", [Postgres.stop, Postgres.kill], ids=["stopped", "killed"])
def test_a_server_that_comes_back_is_used_again(
    postgres: Postgres, ledger: Ledger, away: Callable[[Postgres], None]
) -> None:
    ledger.append(Fact("tiny", "noted", "before", {}))
    away(postgres)
    try:
        assert "next: check MILLRACE_LEDGER_URL and that the database runs" in str(refused(ledger))
    finally:
        postgres.start()
    ledger.append(Fact("tiny", "noted", "after", {}))
    assert [entry.subject for entry in ledger.entries()] == ["before", "after"]
    assert ledger.verify()[0] == 2


def test_a_restart_between_two_calls_is_not_noticed(postgres: Postgres, ledger: Ledger) -> None:
    """The pooled connection is dead by then."""
    ledger.append(Fact("tiny", "noted", "before", {}))
    postgres.stop()
    postgres.start()
    ledger.append(Fact("tiny", "noted", "after", {}))
    assert len(ledger.entries()) == 2


def test_killed_in_the_middle_of_a_transaction_nothing_is_half_written(postgres: Postgres, ledger: Ledger) -> None:
    ledger.outbox.open(INCIDENT)
    killed = []

    def strike(ends: object) -> bool:
        killed.append(ends)
        postgres.kill()
        return True

    try:
        with pytest.raises(ServiceError, match="does not answer"):
            ledger.outbox.open_when(replace(INCIDENT, window=week(1)), strike)
    finally:
        postgres.start()
    assert len(killed) == 1
    assert ledger.outbox.unanswered() == [INCIDENT]
    assert ledger.verify()[0] == 1
    assert ledger.outbox.open_when(replace(INCIDENT, window=week(1)), lambda ends: True) is True


def test_killed_under_load_what_was_acknowledged_is_there(postgres: Postgres, url: str, ledger: Ledger) -> None:
    acknowledged: list[str] = []
    begun = threading.Event()
    end = threading.Event()

    def write(writer: int) -> None:
        mine, turn = Ledger(url), 0
        while not end.is_set():
            subject = f"{writer}-{turn}"
            try:
                mine.append(Fact("tiny", "noted", subject, {}), Fact("tiny", "noted", f"{subject}-twin", {}))
            except ServiceError:
                end.wait(0.05)
            else:
                acknowledged.append(subject)
                turn += 1
            if len(acknowledged) >= 40:
                begun.set()
        mine.close()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    postgres.kill()
    before = len(acknowledged)
    postgres.start()
    begun.clear()
    deadline = threading.Timer(30, end.set)
    deadline.start()
    while len(acknowledged) < before + 20 and not end.is_set():
        begun.wait(0.02)
    deadline.cancel()
    end.set()
    for thread in threads:
        thread.join(30)
    assert len(acknowledged) >= before + 20, "the writers went on"
    subjects = [entry.subject for entry in ledger.entries()]
    assert set(acknowledged) <= set(subjects)
    assert {f"{subject}-twin" for subject in subjects if not subject.endswith("-twin")} <= set(subjects)
    assert ledger.verify()[0] == len(subjects)


STOPPED = """
import os, signal, sys
from millrace.ledger import Ledger
from tests.ledgers import INCIDENT
Ledger(sys.argv[1]).outbox.open_when(INCIDENT, lambda ends: os.kill(os.getpid(), signal.SIGSTOP) or True)
"""


def test_a_writer_that_is_stopped_in_the_middle_does_not_stop_the_others(
    url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = STOPPED.replace(
        "from tests", "from millrace.ledger import database\ndatabase._STOPPED_MS = 500\nfrom tests", 1
    )
    child = subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.PIPE, text=True)
    try:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert ledger.outbox.open(INCIDENT) == [True], "the server gave the lock back"
        os.kill(child.pid, signal.SIGCONT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert "ServiceError" in errors, "what it was about to write is refused"
    assert ledger.verify()[0] == 1


def test_a_user_without_the_right_is_told(url: str, ledger: Ledger) -> None:
    ledger.append(Fact("tiny", "noted", "x", {}))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'hush'")
        (schema,) = connection.execute("SELECT current_schema()").fetchone() or ("",)
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO guest".encode())
        connection.execute("GRANT SELECT ON ledger_schema TO guest")
    guest = Ledger(url.replace("millrace:hush-it-is-a-secret", "guest:hush"))
    with pytest.raises(ServiceError, match="refuses a statement") as caught:
        guest.entries()
    assert "permission denied for table entries" in (caught.value.got or "")
    assert "hush" not in str(caught.value)
    guest.close()
