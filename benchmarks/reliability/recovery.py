"""How soon a killed flow run is found and goes on, and how long a rerun takes in which nothing has changed."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from millrace.faults import FOLDER, Fault
from millrace.settings import Settings
from tasks.prefect_api import flow_state, submit
from tasks.run_kinds import RESUMED
from tests.chaos.real import RealCase, RealWorld
from tests.live import run_millrace, running_stack

_NAME = "recovers"
_AS_OF = "2024-02-01T00:00:00+00:00"
_POINTS = ("slot.take", "storage.find", "ledger.append", "mlflow.search_model_versions", "slot.release")
_GIVE_UP_SECONDS = 120.0


def measure(kills: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Kill a training `kills` times, each time in another run and at another point."""
    with tempfile.TemporaryDirectory(prefix="millrace-recovery-") as folder:
        faults = Path(folder) / "faults"
        faults.mkdir()
        with running_stack(Path(folder), **{FOLDER: str(faults)}) as settings:
            world = RealWorld(settings, faults)
            world.arm(())
            world.add_pipeline(_NAME)
            problems = world.play(_NAME, RealCase("train", None))
            assert not problems, problems
            times = [_kill_once(world, number, tell) for number in range(kills)]
    found, resumed = zip(*times, strict=True)
    return {
        "recovery": {
            "kills": kills,
            "detect_p50_seconds": float(np.percentile(found, 50)),
            "detect_p99_seconds": float(np.percentile(found, 99)),
            "resume_p50_seconds": float(np.percentile(resumed, 50)),
            "resume_p99_seconds": float(np.percentile(resumed, 99)),
        },
    }


def measure_rerun(reruns: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run a training, then `reruns` times again with nothing changed: the whole command, as a person waits for it."""
    with tempfile.TemporaryDirectory(prefix="millrace-recovery-") as folder, running_stack(Path(folder)) as settings:
        RealWorld(settings, Path(folder) / "faults").add_pipeline(_NAME)
        seconds = []
        for number in range(reruns + 1):
            seconds.append(_rerun(settings))
            tell(f"run {number}: {seconds[-1]:.2f} s")
    return {
        "first_run_seconds": seconds[0],
        "noop_rerun_seconds": statistics.median(seconds[1:]),
        "noop_rerun_worst_seconds": max(seconds[1:]),
    }


def _kill_once(world: RealWorld, number: int, tell: Callable[[str], None]) -> tuple[float, float]:
    """Seconds from a kill until the ledger says that the run goes on, and until its new process lives."""
    schedule = world.arm([Fault(_POINTS[number % len(_POINTS)], "before", "kill")])
    parameters = {"pipeline": _NAME, "as_of": _AS_OF}
    run = submit(world.settings, "training/training", parameters, idempotency_key=f"kill-{number}")
    deadline = time.time() + _GIVE_UP_SECONDS
    found = 0.0
    while time.time() < deadline:
        entries = world.ledger.entries(_NAME, RESUMED, subject=run)
        if entries and not found:
            found = entries[0].at.timestamp()
        ended = flow_state(world.settings, run).state == "COMPLETED"
        living = any(beat.run == run for beat in world.ledger.heartbeats.all())
        if ended and not schedule.struck(0):
            raise AssertionError(f"a training in which nothing has changed never meets {schedule.faults[0].point}")
        if found and (living or ended):
            resumed = time.time()
            struck = (schedule.folder / "struck-0").stat().st_mtime
            tell(f"kill {number}: found after {found - struck:.2f} s, goes on after {resumed - struck:.2f} s")
            while flow_state(world.settings, run).state != "COMPLETED" and time.time() < deadline:
                time.sleep(0.1)
            return found - struck, resumed - struck
        time.sleep(0.02)
    raise AssertionError(f"run {run} was killed at {schedule.faults[0].point} and never went on")


def _rerun(settings: Settings) -> float:
    began = time.perf_counter()
    done = run_millrace(settings, "run", _NAME, "--as-of", _AS_OF, "--json")
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began
