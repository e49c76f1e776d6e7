"""A standby that ended or fell silent is replaced, and not more often than every few seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from millrace.settings import Settings
from tasks.rollback_requests import READY
from tasks.standby_watch import PAUSE_SECONDS, SILENT_SECONDS, START_SECONDS, StandbyWatch


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


def test_one_is_started_and_another_when_it_ended(local_settings: Settings, starter: Starter) -> None:
    watch = StandbyWatch(local_settings, starter, lambda: starter.now)
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


def test_one_that_fell_silent_is_replaced(local_settings: Settings, starter: Starter) -> None:
    watch = StandbyWatch(local_settings, starter, lambda: starter.now)
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


def test_one_that_is_never_ready_is_given_its_time(local_settings: Settings, starter: Starter) -> None:
    watch = StandbyWatch(local_settings, starter, lambda: starter.now)
    watch.tick()
    starter.now = START_SECONDS - 1
    watch.tick()
    assert starter.processes[0].poll() is None
    starter.now = START_SECONDS
    watch.tick()
    assert starter.processes[0].returncode is not None
