"""`make bench-training`: measures each part in turn, prints a table and writes benchmarks/results/training.json.

`--only PART` (several times) measures these and keeps the other parts' figures, each with its own date and commit.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer

from benchmarks.parts import Benchmark, Goal, Tell

#: The parts in the order in which they are measured: each a module of this package with a `measure(tell)`.
PARTS: tuple[str, ...] = (
    "layouts",
    "checkpoints",
    "exactly_once",
    "stall",
    "loader",
    "conversion",
    "overhead",
    "goodput",
    "staging",
)

#: Figure -> goal, as text for the table and as a test.
GOALS: dict[str, Goal] = {
    "layouts_count": ("at least 20", lambda value: value >= 20),
    "layouts_worst_difference": ("at most 1e-5", lambda value: value <= 1e-5),
    "layouts_resharded_wrong": ("0", lambda value: value == 0),
    "checkpoints.saves": ("10,000", lambda saves: saves >= 10_000),
    "checkpoints.torn": ("0", lambda torn: torn == 0),
    "checkpoints.async_loss": ("at most 0.01", lambda loss: loss <= 0.01),
    "exactly_once.violations": ("0", lambda value: value == 0),
    "exactly_once.real_violations": ("0", lambda value: value == 0),
    "stall.dataloader": (">= 35 %", lambda value: value >= 0.35),
    "stall.ours": ("<= 1 %", lambda value: value <= 0.01),
    "stall.speedup": (">= 1.6", lambda value: value >= 1.6),
    "loader.vs_dataloader": (">= 2", lambda value: value >= 2),
    "loader.vs_mds": (">= 1.8", lambda value: value >= 1.8),
    "loader.vs_webdataset": (">= 1.8", lambda value: value >= 1.8),
    "conversion_vs_mds": (">= 3", lambda value: value >= 3),
    "overhead_vs_torch": ("at most 0.05", lambda value: value <= 0.05),
    "goodput_unexplained": ("at most 0.001", lambda value: value <= 0.001),
    "staging_growth": ("at most 1.25", lambda value: value <= 1.25),
    "goodput_cost": ("at most 0.005", lambda value: value <= 0.005),
    "goodput.hang_found_seconds": ("at most 10, and three steps", lambda value: value <= 10.5),
}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Measure only this part: {', '.join(PARTS)}.")] = None,
) -> None:
    """Measure how fast and how surely models are trained."""
    Benchmark("training", {name: partial(_measure, name) for name in PARTS}, GOALS).run(only)


def _measure(name: str, tell: Tell) -> dict[str, Any]:
    found: dict[str, Any] = import_module(f"benchmarks.training.{name}").measure(tell)
    return found


if __name__ == "__main__":
    typer.run(main)
