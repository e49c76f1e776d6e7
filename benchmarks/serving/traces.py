"""What it costs to trace every request: throughput with traces and without, in turns."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.figures import spread
from benchmarks.serving.fixture import make_fixture
from benchmarks.serving.in_process import served
from benchmarks.serving.load import closed_loop
from benchmarks.serving.options import Options
from benchmarks.tracing import measure_cost

_CALLERS = 16
_SECONDS = 2.0


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """`share` is the share of the throughput over HTTP that tracing all requests costs, the median of pairs of rounds;
    `in_process` is the same of one process without HTTP, by processor time and number of callers."""
    over_http = _over_http(4 * options.rounds)
    tell(f"over HTTP traces cost {over_http['share']:.1%} of the requests a second")
    return {"traces": {**over_http, "in_process": measure_cost(pairs=8 * options.rounds)}}


def _over_http(pairs: int) -> dict[str, Any]:
    """Two services in one process behind uvicorn, one of which traces, loaded in turns (ABBA)."""
    rates: dict[str, list[float]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory(prefix="traces-") as folder:
        fixture = make_fixture(Path(folder), versions=1)
        with served(fixture, "without") as plain, served(fixture, "with", traced=True) as traced:
            targets = {"without": plain, "with": traced}
            for target in targets.values():
                target.check()
                closed_loop(target, _CALLERS, _SECONDS)  # warm
            for pair in range(pairs):
                for name in ("without", "with") if pair % 2 else ("with", "without"):
                    rates[name].append(closed_loop(targets[name], _CALLERS, _SECONDS).requests_per_second)
    shares = [1 - traced / plain for plain, traced in zip(rates["without"], rates["with"], strict=True)]
    return {
        "share": statistics.median(shares),
        "shares": spread(shares),
        "callers": _CALLERS,
        "pairs": pairs,
        "requests_per_second": {name: statistics.median(found) for name, found in rates.items()},
    }
