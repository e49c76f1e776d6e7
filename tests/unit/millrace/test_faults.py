"""Fault points: silent without a schedule; with one, a fault strikes once, at its moment, in whichever process."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from millrace.errors import ServiceError
from millrace.faults import FOLDER, Fault, Schedule, fault_point


def test_nothing_happens_without_a_schedule(tmp_path: Path) -> None:
    with fault_point("a.b"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Schedule]:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return Schedule


def meet(times: int) -> list[str]:
    """Meet point `a.b`; what happened each time."""
    seen = []
    for _ in range(times):
        done = False
        try:
            with fault_point("a.b"):
                done = True
            seen.append("ok")
        except ServiceError:
            seen.append("after" if done else "before")
    return seen


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (Fault("a.b", "before", "fail", 1), ["before", "ok", "ok"]),
        (Fault("a.b", "after", "fail", 1), ["after", "ok", "ok"]),
        (Fault("a.b", "before", "fail", 3), ["ok", "ok", "before"]),
        (Fault("other", "before", "fail", 1), ["ok", "ok", "ok"]),
    ],
)
def test_a_fault_strikes_once_at_its_moment(fault: Fault, seen: list[str], tmp_path: Path, schedule: object) -> None:
    Schedule(tmp_path, (fault,)).write()
    assert meet(3) == seen


def test_an_error_inside_is_not_met_after(tmp_path: Path, schedule: object) -> None:
    Schedule(tmp_path, ()).write()
    with pytest.raises(KeyError), fault_point("a.b"):
        raise KeyError
    assert Schedule.read(tmp_path).hits == ["a.b before"]


def test_a_kill_is_a_kill(tmp_path: Path, schedule: object) -> None:
    Schedule(tmp_path, (Fault("a.b", "after", "kill"),)).write()
    child = os.fork()
    if child == 0:
        meet(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert Schedule.read(tmp_path).struck(0)
    assert meet(2) == ["ok", "ok"], "it has struck: the process that starts again goes on"


def test_a_hold_waits_until_it_is_let_go(tmp_path: Path, schedule: object) -> None:
    made = Schedule(tmp_path, (Fault("a.b", "before", "hold"),))
    made.write()
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.extend(meet(1)))
    thread.start()
    while not made.struck(0):
        pass
    assert seen == []
    made.let_go(0)
    thread.join(10)
    assert seen == ["ok"]
