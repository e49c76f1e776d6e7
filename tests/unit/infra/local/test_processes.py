from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.local.processes import Record, members, read_record, rotate, spawn, stop, tail

pytestmark = pytest.mark.unit

_SLEEP = "import signal; signal.pause()"
# A child that leaves the process group, and a grandchild that leaves even the session.
_FAMILY = f"""
import subprocess, sys, signal
subprocess.Popen([sys.executable, "-c", "import os; os.setpgid(0, 0); {_SLEEP}"])
subprocess.Popen([sys.executable, "-c", "{_SLEEP}"], start_new_session=True)
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "run").mkdir()
    yield tmp_path
    stop(members(tmp_path, "worker", read_record(tmp_path / "run", "worker")), grace_s=0)


def _spawn(state: Path, code: str) -> Record:
    process = spawn(
        "worker", [sys.executable, "-c", code], env=dict(os.environ), cwd=state, log=state / "log", state=state
    )
    process.returncode = 0  # stopped and reaped through its record
    record = read_record(state / "run", "worker")
    assert record is not None
    return record


def _wait_for(state: Path, count: int) -> list[psutil.Process]:
    while True:
        found = members(state, "worker", read_record(state / "run", "worker"))
        if len(found) == count and "ready" in tail(state / "log"):
            return found


def test_a_started_process_is_recognised(state: Path) -> None:
    record = _spawn(state, _SLEEP)
    assert record.alive
    assert [process.pid for process in members(state, "worker", record)] == [record.pid]


def test_a_reused_pid_is_not_believed(state: Path) -> None:
    record = _spawn(state, _SLEEP)
    earlier = Record("worker", record.pid, record.created - 60)
    assert not earlier.alive
    # Only the mark in its environment makes it one of ours; another state folder's record finds nothing.
    assert members(state / "other", "worker", earlier) == []
    assert record.alive


def test_a_record_of_a_dead_process_is_stale(state: Path) -> None:
    record = _spawn(state, _SLEEP)
    stop(members(state, "worker", record), grace_s=5)
    assert not record.alive
    assert members(state, "worker", record) == []


def test_a_broken_record_counts_as_none(state: Path) -> None:
    (state / "run" / "worker.json").write_text("{")
    assert read_record(state / "run", "worker") is None


def test_members_are_found_after_their_leader_was_killed(state: Path) -> None:
    record = _spawn(state, _FAMILY)
    family = _wait_for(state, 3)
    leader = psutil.Process(record.pid)
    leader.kill()
    leader.wait()
    left = members(state, "worker", record)
    assert {process.pid for process in left} == {process.pid for process in family} - {record.pid}
    stop(left, grace_s=5)
    assert members(state, "worker", record) == []


def test_a_process_that_ignores_sigterm_is_killed(state: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); {_SLEEP}"
    record = _spawn(state, code)
    stop(_wait_for(state, 1), grace_s=0.1)
    assert not record.alive


def test_this_process_is_never_a_member(state: Path) -> None:
    own = Record("worker", os.getsid(0), 0.0)
    assert os.getpid() not in {process.pid for process in members(state, "worker", own)}


def test_a_long_log_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    with log.open("wb") as file:
        file.truncate(11 * 1024 * 1024)
    assert rotate(log) == 0
    assert not log.exists()
    assert (tmp_path / "ray.log.1").exists()


def test_the_tail_leaves_out_earlier_starts(tmp_path: Path) -> None:
    log = tmp_path / "ray.log"
    log.write_text("old failure\n")
    start = rotate(log)
    with log.open("a") as file:
        file.write("new failure\n")
    assert tail(log, start) == "new failure"
