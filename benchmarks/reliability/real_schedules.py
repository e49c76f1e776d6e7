"""Schedules of faults with real processes: Prefect, worker, MLflow, Ray, Serve, reconciler, flows."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from millrace.faults import FOLDER
from millrace.provenance import commit
from tests.chaos.real import VICTIMS, RealCase, RealWorld, cases, play_all, supervised
from tests.live import running_stack
from tests.postgres import MISSING, running_postgres

#: Schedules to a pipeline: one that goes on begins a new one.
_ROUND = 3


def measure(count: int, seed: int, tell: Callable[[str], None], progress: Path) -> dict[str, Any]:
    """Play `count` schedules on one stack, whose parts are started again when they die; its ledger is in PostgreSQL.

    That takes an hour. `progress` keeps what each schedule came to, so a measurement that was cut short goes on.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder, running_postgres() as database:
        if database is None:
            tell(f"{MISSING}: the ledger is a file, and no schedule kills its database")
        victims = VICTIMS if database is not None else tuple(name for name in VICTIMS if name != "database")
        chosen = list(cases(count, seed, victims))
        played = _played(progress, chosen)
        first = len(played) // _ROUND * _ROUND
        if first:
            tell(f"{first} of {count} are in {progress}; remove it to play them again")

        def keep(number: int, problems: list[str]) -> None:
            line = {"number": number, "case": str(chosen[number]), "commit": commit(), "problems": problems}
            with progress.open("a") as file:
                file.write(json.dumps(line) + "\n")

        faults = Path(folder) / "faults"
        faults.mkdir()
        url = None if database is None else database.new_url()
        with running_stack(Path(folder), url, **{FOLDER: str(faults)}) as settings:
            world = RealWorld(settings, faults, database)
            world.arm(())
            with supervised(world):
                play_all(world, chosen, prefix="real", first=first, tell=tell, keep=keep)
    played = _played(progress, chosen)
    progress.unlink()
    differing = [problem for line in played for problem in line["problems"]]
    return {
        "real_ledger": "file" if database is None else "postgresql",
        "real_schedules": len(played),
        "real_differences": len(differing),
        "real_differing": differing,
        "real_commits": dict(Counter(line["commit"] for line in played)),
        "victims": dict(Counter(case.victim or f"flow ({case.fault.action})" for case in chosen if case.fault)),
        "seed": seed,
    }


def _played(progress: Path, chosen: Sequence[RealCase]) -> list[dict[str, Any]]:
    """What the first schedules came to, the last word on each; none that is not one of those chosen now."""
    lines: dict[int, dict[str, Any]] = {}
    if progress.exists():
        for line in map(json.loads, progress.read_text().splitlines()):
            lines[line["number"]] = line
    played = []
    for number, case in enumerate(chosen):
        if number not in lines or lines[number]["case"] != str(case):
            break
        played.append(lines[number])
    return played
