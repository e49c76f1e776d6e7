"""`make bench-serving`: measures each part in turn, prints a table and writes benchmarks/results/serving.json.

`--only PART` (several times) measures these and keeps the other parts' figures, each with its own date and commit.
`--rounds` or `--seconds` make it a rehearsal, whose figures go to build/serving.json: they mean nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.parts import Benchmark, Goal, Tell
from benchmarks.record import RESULTS
from benchmarks.serving.options import Options, rehearsal
from benchmarks.serving.peers.environment import ROOT

#: The parts in the order in which they are measured: each a module of this package with a `measure(options, tell)`.
#: A name whose module is not there has not been written yet.
_ORDER = (
    "throughput",
    "open_loop",
    "kills",
    "redeploys",
    "cache",
    "canary",
    "batching",
    "traces",
    "overload",
    "protocols",
    "fairness",
)
PARTS = tuple(name for name in _ORDER if (Path(__file__).parent / f"{name}.py").exists())

#: Figure -> goal, as text for the table and as a test.
GOALS: dict[str, Goal] = {
    "share_of_bare_ray_c16": ("at least 0.85", lambda value: value >= 0.85),
    "share_of_fastapi_c16": ("at least 0.5", lambda value: value >= 0.5),
    "added_p50_ms_c1": ("at most 0.3", lambda value: value <= 0.3),
    "share_of_fastest_server_c16": ("over 1", lambda value: value > 1),
    "servers_compared": ("4", lambda value: value == 4),
    "open_loop.rate": ("500", lambda value: value >= 500),
    "open_loop.seconds": ("300", lambda value: value >= 300),
    "open_loop.p99_ms": ("under 100", lambda value: value < 100),
    "open_loop.failed": ("0", lambda value: value == 0),
    "kills.count": ("20", lambda value: value >= 20),
    "kills.failed": ("0", lambda value: value == 0),
    "redeploys.count": ("10", lambda value: value >= 10),
    "redeploys.failed": ("0", lambda value: value == 0),
    "redeploys.version_p99_ratio": ("at most 2", lambda value: value <= 2),
    "redeploys.code_p99_ratio": ("at most 2", lambda value: value <= 2),
    "cache.executions_saved": ("at least 0.4", lambda value: value >= 0.4),
    "cache.hit_ms": ("under 0.2", lambda value: value < 0.2),
    "batching.worst_share_of_best_fixed": ("at least 0.95", lambda value: value >= 0.95),
    "traces.share": ("at most 0.03", lambda value: value <= 0.03),
    "overload.goodput_share": ("at least 0.9", lambda value: value >= 0.9),
    "protocols.compared": ("50", lambda value: value >= 50),
    "protocols.unexplained": ("0", lambda value: value == 0),
    "fairness.p99_ratio": ("at most 1.2", lambda value: value <= 1.2),
    "fairness.service_p99_ratio": ("at most 1.2", lambda value: value <= 1.2),
    "fairness.goodput_share": ("at least 0.99", lambda value: value >= 0.99),
    "batching.lone_added_ms": ("at most 0.5", lambda value: value <= 0.5),
}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Measure only this part: {', '.join(PARTS)}.")] = None,
    rounds: Annotated[
        int | None, typer.Option(help="A rehearsal with so many rounds, kills, pairs of deploys.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="A rehearsal with so many seconds of load each.")] = None,
) -> None:
    """Measure how fast predictions are answered, beside other servers, and what is lost when things die or change."""
    is_rehearsal = rounds is not None or seconds is not None
    options = rehearsal(rounds or 1, seconds or 2.0) if is_rehearsal else Options()
    folder = ROOT / "build" if is_rehearsal else RESULTS
    folder.mkdir(exist_ok=True)
    parts = {name: partial(_measure, name, options) for name in PARTS}
    Benchmark("serving", parts, GOALS, folder=folder).run(only)


def _measure(name: str, options: Options, tell: Tell) -> dict[str, Any]:
    found: dict[str, Any] = import_module(f"benchmarks.serving.{name}").measure(options, tell)
    return {**found, "options": asdict(options)}


if __name__ == "__main__":
    typer.run(main)
