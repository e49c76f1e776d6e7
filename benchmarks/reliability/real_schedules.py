"""Schedules of faults with real processes: Prefect, worker, MLflow, Ray, Serve, reconciler, flows."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millrace.faults import FOLDER
from tests.chaos.real import RealWorld, cases, play_all, supervised
from tests.live import running_stack


def measure(count: int, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Play `count` schedules on one stack, whose parts are started again when they die."""
    with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
        faults = Path(folder) / "faults"
        faults.mkdir()
        with running_stack(Path(folder), **{FOLDER: str(faults)}) as settings:
            world = RealWorld(settings, faults)
            world.arm(())
            chosen = list(cases(count, seed))
            with supervised(settings):
                differing = play_all(world, chosen, prefix="real", tell=tell)
    return {
        "real_schedules": len(chosen),
        "real_differences": len(differing),
        "real_differing": differing,
        "victims": dict(Counter(case.victim or f"flow ({case.fault.action})" for case in chosen if case.fault)),
        "seed": seed,
    }
