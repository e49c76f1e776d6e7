"""Schedules of kills, resizes (1 to 8 ranks) and restarts on the loader: batches unlike an undisturbed run's."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from tests.chaos.loader_schedules import Case, real_violations, violations

COUNT, REAL = 1000, 20


def measure(tell: Tell, count: int = COUNT, real: int = REAL) -> dict[str, Any]:
    """Play them all; the seed is the schedule's number."""
    # Processes are forked: first those, before this process has threads.
    killed = _played(real, real_violations)
    tell(f"{real} schedules with killed processes: {killed} violations")
    wrong = _played(count, violations)
    tell(f"{count} schedules: {wrong} violations")
    return {
        "exactly_once": {"schedules": count, "violations": wrong, "real_schedules": real, "real_violations": killed}
    }


def _played(count: int, play: Any) -> int:
    found = 0
    for seed in range(count):
        with tempfile.TemporaryDirectory(prefix="millrace-loader-") as folder:
            chance = random.Random(seed)
            found += play(Case.of(Path(folder), chance), chance)
    return found
