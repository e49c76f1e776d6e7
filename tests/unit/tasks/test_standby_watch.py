"""A standby that ended or fell silent is replaced, and not more often than every few seconds."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from millrace.ledger import Ledger, Token
from millrace.settings import Settings
from tasks.rollback_requests import READY
from tasks.standby_watch import MOST_PAUSE_SECONDS, PAUSE_SECONDS, SILENT_SECONDS, START_SECONDS, StandbyWatch


class Starter:
    """Starts processes that wait, and remembers them."""

    def __init__(self) -> None:
        self.now, self.processes = 0.0, list[subprocess.Popen[bytes]]()

    def __call__(self, _: Settings) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        return self.processes[-1]


@pytest.fixture
def starter() -> Any:
    starter = Starter()
    yield starter
    for process in starter.processes:
        process.kill()
        process.communicate()


@pytest.fixture
def ledger(local_settings: Settings) -> Ledger:
    """In which a version serves."""
    ledger = Ledger(local_settings.ledger)
    token = ledger.slots.take("p", "serving", "run")
    assert isinstance(token, Token)
    ledger.serve("p", "1", "digest", because=ledger.decide("p", "promoted", "1", {}), token=token)
    return ledger


def test_none_is_kept_while_nothing_serves(local_settings: Settings, tmp_path: Path, starter: Starter) -> None:
    StandbyWatch(local_settings, Ledger(f"sqlite:///{tmp_path}/empty.db"), starter, lambda: starter.now).tick()
    assert starter.processes == []


def test_those_that_are_never_ready_are_started_less_and_less_often(
    local_settings: Settings, ledger: Ledger, starter: Starter
) -> None:
    watch = StandbyWatch(local_settings, ledger, starter, lambda: starter.now)
    times = []
    for second in range(200):
        starter.now, before = float(second), len(starter.processes)
        watch.tick()
        if len(starter.processes) > before:
            times.append(second)
            starter.processes[-1].kill()
            starter.processes[-1].wait()
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses == [PAUSE_SECONDS, 10, 20, 40, MOST_PAUSE_SECONDS, MOST_PAUSE_SECONDS]


def test_one_is_started_and_another_when_it_ended(local_settings: Settings, ledger: Ledger, starter: Starter) -> None:
    watch = StandbyWatch(local_settings, ledger, starter, lambda: starter.now)
    watch.tick()
    watch.tick()
    assert len(starter.processes) == 1
    starter.processes[0].kill()
    starter.processes[0].wait()
    watch.tick()
    assert len(starter.processes) == 1
    starter.now = PAUSE_SECONDS
    watch.tick()
    assert len(starter.processes) == 2
    watch.close()
    assert starter.processes[1].returncode is not None


def test_one_that_fell_silent_is_replaced(local_settings: Settings, ledger: Ledger, starter: Starter) -> None:
    watch = StandbyWatch(local_settings, ledger, starter, lambda: starter.now)
    watch.tick()
    ready = local_settings.state / "run" / READY
    ready.parent.mkdir(parents=True)
    ready.touch()
    starter.now = 10.0
    watch.tick()
    starter.now = 9.0 + SILENT_SECONDS
    os.utime(ready, (1, 1))
    watch.tick()
    starter.now += SILENT_SECONDS - 1
    watch.tick()
    assert starter.processes[0].poll() is None
    starter.now += 1
    watch.tick()
    assert starter.processes[0].returncode is not None
    watch.tick()
    assert len(starter.processes) == 2


def test_one_that_is_never_ready_is_given_its_time(local_settings: Settings, ledger: Ledger, starter: Starter) -> None:
    watch = StandbyWatch(local_settings, ledger, starter, lambda: starter.now)
    watch.tick()
    starter.now = START_SECONDS - 1
    watch.tick()
    assert starter.processes[0].poll() is None
    starter.now = START_SECONDS
    watch.tick()
    assert starter.processes[0].returncode is not None
