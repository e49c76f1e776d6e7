"""What it costs to trace every request: throughput in one process with and without, in turns."""

from __future__ import annotations

from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.options import Options
from benchmarks.tracing import measure_cost


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """The share of throughput by number of callers, of the request path alone: HTTP would make it smaller."""
    tell("requests of one process without HTTP, with traces and without")
    return {"traces": measure_cost(pairs=8 * options.rounds)}
