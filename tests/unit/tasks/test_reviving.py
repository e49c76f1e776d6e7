"""A dead flow run is found by what is seen of it, and goes on under its own id; one that lives is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from millrace.ledger import Fact, Heartbeat, Incident, Ledger, Token
from millrace.ledger.tables import HEARTBEATS
from millrace.settings import Settings
from millrace.window import Window
from tasks.reviving import MAX_LIVES, REPORT_SECONDS, SILENT_SECONDS, STUCK_SECONDS, UNBORN_SECONDS, Reviver
from tasks.run_kinds import ABANDONED, RESUMED
from tests.chaos.outside import Outside
from tests.unit.tasks.conftest import Clock

Start = Callable[..., None]
INCIDENT = Incident(
    "p", "1", "drift", Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)), {"reasons": []}
)


@pytest.fixture
def reviver(settings: Settings, ledger: Ledger, outside: Outside, clock: Clock) -> Reviver:
    return Reviver(settings, ledger, clock)


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    """A process that lives until the test kills it."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield psutil.Process(child.pid)
    child.kill()
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def beats(ledger: Ledger, run: str, *, host: str | None = None, process: psutil.Process | None = None) -> Heartbeat:
    """A heartbeat of `run`, of this process unless another one or another host is named."""
    mine = ledger.heartbeats.begin(run, "training", "p")
    known = process or psutil.Process()
    other = replace(mine, host=host or mine.host, pid=known.pid, started=known.create_time())
    with ledger._database.write() as connection:
        connection.execute(sa.update(HEARTBEATS).values(host=other.host, pid=other.pid, started=other.started))
    return other


def state(outside: Outside, run: str = "run") -> str:
    return str(outside.read()["runs"][run]["state"])


def test_a_run_that_beats_is_left_alone(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock
) -> None:
    start("run", "RUNNING")
    mine = beats(ledger, "run", host="elsewhere")
    for _ in range(20):
        clock.seconds += 1
        assert ledger.heartbeats.beat(mine)
        reviver.tick()
    assert state(outside) == "RUNNING"


def test_a_run_of_another_host_that_falls_silent_goes_on(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock
) -> None:
    start("run", "RUNNING")
    beats(ledger, "run", host="elsewhere")
    reviver.tick()
    clock.seconds += SILENT_SECONDS - 0.1
    reviver.tick()
    assert state(outside) == "RUNNING"
    clock.seconds += 0.2
    reviver.tick()
    clock.seconds += REPORT_SECONDS
    reviver.tick()
    assert state(outside) == "SCHEDULED"
    assert ledger.heartbeats.all() == []
    assert [entry.subject for entry in ledger.entries("p", RESUMED)] == ["run"]


def test_a_killed_process_of_this_host_is_found_at_once(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock, process: psutil.Process
) -> None:
    start("run", "CRASHED")
    beats(ledger, "run", process=process)
    process.kill()
    process.wait()
    reviver.tick()
    assert state(outside) == "SCHEDULED"


def test_a_worker_is_given_time_to_report_the_death(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock, process: psutil.Process
) -> None:
    start("run", "RUNNING")
    beats(ledger, "run", process=process)
    process.kill()
    process.wait()
    reviver.tick()
    assert state(outside) == "RUNNING"
    clock.seconds += REPORT_SECONDS
    reviver.tick()
    assert state(outside) == "SCHEDULED"


def test_a_process_that_is_stuck_is_killed_before_its_run_goes_on(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock, process: psutil.Process
) -> None:
    start("run", "RUNNING")
    beats(ledger, "run", process=process)
    reviver.tick()
    clock.seconds += SILENT_SECONDS + 1
    reviver.tick()
    assert process.is_running(), "it is seen to live: it may only be slow"
    clock.seconds += STUCK_SECONDS
    reviver.tick()
    process.wait(5)
    clock.seconds += REPORT_SECONDS
    reviver.tick()
    assert state(outside) == "SCHEDULED"


@pytest.mark.parametrize(("known", "seconds"), [*UNBORN_SECONDS.items(), ("PENDING", 20.0)])
def test_a_run_that_never_had_a_heartbeat_goes_on(
    known: str, seconds: float, reviver: Reviver, start: Start, outside: Outside, clock: Clock
) -> None:
    start("run", known)
    for _ in range(2):
        reviver.tick()
        clock.seconds += seconds + 0.1
    reviver.tick()
    assert state(outside) == "SCHEDULED"


def test_a_run_may_wait_for_its_pod_as_long_as_the_settings_say(
    reviver: Reviver, start: Start, outside: Outside, clock: Clock
) -> None:
    reviver.settings = reviver.settings.model_copy(update={"start_seconds": 300.0})
    start("run", "PENDING")
    reviver.tick()
    clock.seconds += 299
    reviver.tick()
    assert state(outside) == "PENDING"
    clock.seconds += 1
    reviver.tick()
    assert state(outside) == "SCHEDULED"


def test_a_run_whose_process_is_seen_to_begin_is_given_time(
    reviver: Reviver, start: Start, outside: Outside, clock: Clock
) -> None:
    start("slow", "RUNNING")
    start("gone", "RUNNING")
    environment = os.environ | {"PREFECT__FLOW_RUN_ID": "slow"}
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment)
    try:
        reviver.tick()
        clock.seconds += UNBORN_SECONDS["RUNNING"]
        reviver.tick()
        assert [state(outside, run) for run in ("slow", "gone")] == ["RUNNING", "SCHEDULED"]
        clock.seconds += STUCK_SECONDS
        reviver.tick()
        assert state(outside, "slow") == "SCHEDULED"
    finally:
        child.communicate()


@pytest.mark.parametrize("ended", ["COMPLETED", "FAILED", "CANCELLED", "PAUSED"])
def test_a_run_that_ended_or_waits_is_only_forgotten(
    ended: str, reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock
) -> None:
    start("run", ended)
    beats(ledger, "run", host="elsewhere")
    reviver.tick()
    clock.seconds += SILENT_SECONDS + 1
    reviver.tick()
    assert state(outside) == ended
    assert ledger.heartbeats.all() == []


def test_a_late_report_of_a_death_is_put_right(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock
) -> None:
    """The worker reports the first process while the second one, which has taken over, lives."""
    start("run", "CRASHED")
    beats(ledger, "run")
    reviver.tick()
    assert state(outside) == "RUNNING"


@pytest.mark.parametrize("is_told_late", [False, True])
def test_one_that_was_cancelled_and_says_it_crashed_stays_so(
    is_told_late: bool,
    reviver: Reviver,
    ledger: Ledger,
    start: Start,
    outside: Outside,
    clock: Clock,
    process: psutil.Process,
) -> None:
    """A process that gets SIGTERM says so to Prefect before its worker says that it was cancelled."""
    start("run", "CANCELLING" if is_told_late else "CRASHED")
    with outside.edit() as held:
        held["runs"]["run"]["before"] = ["RUNNING", "CANCELLING"]
    beats(ledger, "run", process=process)
    reviver.tick()
    assert state(outside) == ("CANCELLING" if is_told_late else "CRASHED"), "while its process still ends"
    process.kill()
    process.wait()
    for _ in range(10):
        reviver.tick()
        with outside.edit() as held:
            held["runs"]["run"]["state"] = "CRASHED"
        clock.seconds += 1
    assert ledger.heartbeats.all() == []
    assert state(outside) == "CRASHED", "its worker has the word"
    clock.seconds += STUCK_SECONDS
    reviver.tick()
    assert state(outside) == "CANCELLED"
    assert not ledger.entries("p", RESUMED)


def test_what_dies_each_time_is_given_up_and_its_incident_with_it(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock
) -> None:
    ledger.outbox.open(INCIDENT)
    ledger.outbox.answer(INCIDENT.key, "run")
    token = ledger.slots.take("p", "training", "run")
    assert isinstance(token, Token)
    start("run", "CRASHED")
    ledger.append(Fact("p", "run_started", "run", {}))
    for life in range(MAX_LIVES):
        ledger.append(Fact("p", RESUMED, "run", {"life": life}))
    reviver.tick()
    clock.seconds += 1000
    reviver.tick()
    assert [entry.subject for entry in ledger.entries("p", ABANDONED)] == ["run"]
    found = ledger.outbox.find(INCIDENT.key)
    assert found is not None
    assert found.outcome == "failed"
    reviver.tick()
    assert len(ledger.entries("p", ABANDONED)) == 1


def test_a_run_that_no_deployment_can_start_is_given_up(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock, process: psutil.Process
) -> None:
    start("run", "RUNNING", flow=None)
    beats(ledger, "run", process=process)
    process.kill()
    process.wait()
    reviver.tick()
    assert state(outside) == "CRASHED"
    assert len(ledger.entries("p", ABANDONED)) == 1
    assert ledger.heartbeats.all() == []


def test_it_pauses_longer_each_time(
    reviver: Reviver, ledger: Ledger, start: Start, outside: Outside, clock: Clock
) -> None:
    start("run", "CRASHED")
    ledger.append(Fact("p", "run_started", "run", {}))
    waited: list[Any] = []
    for _ in range(3):
        began = clock.seconds
        while state(outside) != "SCHEDULED":
            reviver.tick()
            clock.seconds += 0.5
        waited.append(clock.seconds - began)
        with outside.edit() as held:
            held["runs"]["run"]["state"] = "CRASHED"
        clock.seconds += 1
    assert waited == sorted(waited)
    assert waited[-1] >= 4
