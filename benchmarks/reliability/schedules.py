"""Schedules of faults on the real flows over doubles of what is outside; see tests/chaos."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.schedules import Reference, double_faults, run_case, single_faults, zombies


def measure(count: int, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Play `count` schedules: each point killed, failed and held while that fits, the rest pairs and triples."""
    with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
        reference = Reference.make(Path(folder))
        chosen = [*single_faults(reference), *zombies(reference)]
        random.Random(seed).shuffle(chosen)
        singles = chosen[: count * 3 // 4]
        pairs = list(double_faults(reference, count - len(singles), seed))
        differing: list[str] = []
        for number, case in enumerate([*singles, *pairs], start=1):
            if found := run_case(reference, case):
                differing.append(str(case))
                tell(f"{case}\n    " + "\n    ".join(found))
            if number % 50 == 0:
                tell(f"{number} of {count} schedules, {len(differing)} differ")
    return {
        "fault_points": len(reference.points()),
        "schedules": len(singles) + len(pairs),
        "single_or_frozen": len(singles),
        "pairs_or_triples": len(pairs),
        "possible_single_or_frozen": len(chosen),
        "seed": seed,
        "differences": len(differing),
        "differing": differing,
    }
