"""Who lives, who is gone, and who cannot be judged from here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from millrace.ledger import Heartbeat, Ledger
from millrace.ledger.heartbeats import here

CHILD = """
import sys
from millrace.ledger import Ledger
Ledger(sys.argv[1]).heartbeats.begin("run-1", "training", "tiny")
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_process_that_was_killed_is_gone(url: str, ledger: Ledger) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "begun\n"
        (heartbeat,) = ledger.heartbeats.all()
        assert (heartbeat.run, heartbeat.flow, heartbeat.pipeline, heartbeat.pid) == (
            "run-1", "training", "tiny", child.pid,
        )  # fmt: skip
        assert (heartbeat.is_gone, heartbeat.is_seen_alive) == (False, True)
        os.kill(child.pid, signal.SIGKILL)
        # Nobody has waited for it yet: a zombie still has a pid and a start time.
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert (heartbeat.is_gone, heartbeat.is_seen_alive) == (True, False)
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    assert (heartbeat.is_gone, heartbeat.is_seen_alive) == (True, False)
    assert ledger.heartbeats.all() == [heartbeat], "a dead run stays until somebody has seen to it"
    ledger.heartbeats.end(heartbeat)
    assert ledger.heartbeats.all() == []


def test_another_process_with_its_pid_is_not_it(ledger: Ledger) -> None:
    mine = ledger.heartbeats.begin("run-1", "training", "tiny")
    earlier = replace(mine, started=mine.started - 5)
    assert (mine.is_gone, mine.is_seen_alive) == (False, True)
    assert (earlier.is_gone, earlier.is_seen_alive) == (True, False)


def test_another_host_is_not_judged_by_pid(ledger: Ledger) -> None:
    mine = ledger.heartbeats.begin("run-1", "training", "tiny")
    dead = replace(mine, pid=2**22 + 1)
    assert dead.is_gone
    for host in ("elsewhere", here() + "0"):
        for other in (replace(mine, host=host), replace(dead, host=host)):
            assert (other.is_gone, other.is_seen_alive) == (False, False)


def test_a_process_that_may_not_be_looked_at_is_not_judged(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ledger.heartbeats.begin("run-1", "training", "tiny")

    def refuse(pid: int) -> psutil.Process:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", refuse)
    assert (mine.is_gone, mine.is_seen_alive) == (False, False)


def test_beats_are_counted_until_another_process_is_the_run(ledger: Ledger) -> None:
    mine = ledger.heartbeats.begin("run-1", "training", "tiny")
    assert [ledger.heartbeats.beat(mine) for _ in range(3)] == [True, True, True]
    assert ledger.heartbeats.all() == [replace(mine, beat=3)]
    later = replace(mine, pid=mine.pid + 1)
    _put(ledger, later)
    assert ledger.heartbeats.beat(mine) is False
    ledger.heartbeats.end(mine)
    assert ledger.heartbeats.all() == [later], "the earlier process does not end the later one"
    assert ledger.heartbeats.beat(later) is True


def test_each_run_has_its_own(ledger: Ledger) -> None:
    first = ledger.heartbeats.begin("run-1", "training", "tiny")
    second = ledger.heartbeats.begin("run-2", "monitoring", "other")
    assert sorted(ledger.heartbeats.all(), key=lambda beat: beat.run) == [first, second]
    ledger.heartbeats.end(first)
    assert ledger.heartbeats.all() == [second]
    assert ledger.entries() == [], "a heartbeat is no record"


def _put(ledger: Ledger, heartbeat: Heartbeat) -> None:
    """As another process would `begin` the same run."""
    with pytest.MonkeyPatch.context() as patch:

        class Other:
            pid = heartbeat.pid

            @staticmethod
            def create_time() -> float:
                return heartbeat.started

        patch.setattr(psutil, "Process", Other)
        assert ledger.heartbeats.begin(heartbeat.run, heartbeat.flow, heartbeat.pipeline) == heartbeat


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_of_another_user_is_left_to_him() -> None:
    process = psutil.Process()
    beat = Heartbeat("run", "training", "tiny", here(), process.pid, process.create_time(), 0)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(65_534)
            beat.kill()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
