"""`make bench-gpu`: measures each part in turn on one GPU, prints a table and writes benchmarks/results/gpu.json.

Where there is no CUDA device nothing is measured and nothing written: it says so, and ends with status 0.
`--only PART` (several times) measures these and keeps the other parts' figures.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.parts import Benchmark, Goal, Tell
from benchmarks.record import RESULTS

#: The parts in the order in which they are measured: each a module of this package with a `measure(tell)`.
PARTS = ("steps", "checkpoint", "stall")

#: Figure -> goal, as text for the table and as a test.
GOALS: dict[str, Goal] = {
    "best_mfu_of_measured_peak": ("at least 0.4", lambda value: value >= 0.4),
    "stall.ours": ("at most 0.01", lambda value: value <= 0.01),
    "checkpoint.async_loss": ("at most 0.01", lambda value: value <= 0.01),
    "full_recompute_memory_share": ("under 0.6", lambda value: value < 0.6),
}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Measure only this part: {', '.join(PARTS)}.")] = None,
    folder: Annotated[Path, typer.Option(help="Where gpu.json is written.")] = RESULTS,
) -> None:
    """Measure training steps on this machine's first GPU."""
    import torch

    if not torch.cuda.is_available():
        typer.echo("skipped: this machine has no CUDA device, so nothing was measured")
        return
    Benchmark("gpu", {name: partial(_measure, name) for name in PARTS}, GOALS, folder=folder).run(only)


def _measure(name: str, tell: Tell) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = import_module(f"benchmarks.gpu.{name}").measure(tell)
    return {**found, "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}


if __name__ == "__main__":
    typer.run(main)
