"""Three times as many requests as can be answered: how many are still answered, beside what can be."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.fixture import make_fixture
from benchmarks.serving.load import closed_loop
from benchmarks.serving.millrace_server import serving_millrace
from benchmarks.serving.options import Options

_SEED = 2013
_CALLERS = 64
_TARGET_MS = 100.0
_TIMES = 3.0


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """One replica with a latency target: its capacity by a closed loop, then an open loop at three times that.

    `goodput_share` is answers a second over the capacity; `p99_ms` is of the answers, from when each was due.
    """
    seconds = 4 * options.seconds
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        serving_millrace(make_fixture(Path(folder)), latency_target_ms=_TARGET_MS) as server,
    ):
        server.target.check()
        closed_loop(server.target, _CALLERS, options.seconds)  # warm
        capacity = closed_loop(server.target, _CALLERS, seconds).requests_per_second
        tell(f"capacity {capacity:.0f} requests/s; now {_TIMES * capacity:.0f} requests/s for {seconds:g} s")
        with start_client(server.target, open_loop_plan(_TIMES * capacity, seconds, seed=_SEED)) as client:
            found = client.result()
    answered = found["requests"] - found["failed"]
    return {
        "overload": {
            "capacity": capacity,
            "times": _TIMES,
            "target_ms": _TARGET_MS,
            "goodput_share": answered / seconds / capacity,
            **found,
        }
    }
