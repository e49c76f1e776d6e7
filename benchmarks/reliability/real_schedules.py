"""Schedules of faults with real processes: Prefect, worker, MLflow, Ray, Serve, reconciler, flows."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millrace.faults import FOLDER
from tests.chaos.real import VICTIMS, RealWorld, cases, play_all, supervised
from tests.live import running_stack
from tests.postgres import MISSING, running_postgres


def measure(count: int, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Play `count` schedules on one stack, whose parts are started again when they die; its ledger is in PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder, running_postgres() as database:
        if database is None:
            tell(f"{MISSING}: the ledger is a file, and no schedule kills its database")
        victims = VICTIMS if database is not None else tuple(name for name in VICTIMS if name != "database")
        chosen = list(cases(count, seed, victims))
        faults = Path(folder) / "faults"
        faults.mkdir()
        url = None if database is None else database.new_url()
        with running_stack(Path(folder), url, **{FOLDER: str(faults)}) as settings:
            world = RealWorld(settings, faults, database)
            world.arm(())
            with supervised(world):
                differing = play_all(world, chosen, prefix="real", tell=tell)
    return {
        "real_ledger": "file" if database is None else "postgresql",
        "real_schedules": len(chosen),
        "real_differences": len(differing),
        "real_differing": differing,
        "victims": dict(Counter(case.victim or f"flow ({case.fault.action})" for case in chosen if case.fault)),
        "seed": seed,
    }
