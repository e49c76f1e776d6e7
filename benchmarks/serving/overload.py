"""Three times as many requests as can be answered: how many are still answered, beside what can be."""

from __future__ import annotations

import tempfile
from dataclasses import replace
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
#: Rows a request: the answer is then mostly work on rows, as with a model that is worth a server, and three times what
#: can be answered is a load that two cores can also send. More would not fit into HAProxy's buffer (64 KiB), and a
#: request that is refused before it was read costs its caller the connection.
_ROWS = 100


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """One replica with a latency target: its capacity by a closed loop, then an open loop at three times that.

    `goodput_share` is answers a second over the capacity; `p99_ms` is of the answers, from when each was due. `one_row`
    is the same with requests of one row: almost all work is HTTP then, which a refusal costs too, and so does sending.
    """
    return {"overload": {**_overload(_ROWS, options, tell), "one_row": _overload(1, options, tell)}}


def _overload(num_rows: int, options: Options, tell: Tell) -> dict[str, Any]:
    seconds = 4 * options.seconds
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        serving_millrace(make_fixture(Path(folder)), latency_target_ms=_TARGET_MS) as server,
    ):
        server.target.check()
        target = replace(server.target, num_rows=num_rows)
        closed_loop(target, _CALLERS, options.seconds)  # warm
        capacity = closed_loop(target, _CALLERS, seconds).requests_per_second
        rate = _TIMES * capacity
        tell(f"{num_rows} rows a request: capacity {capacity:.0f} requests/s; now {rate:.0f} for {seconds:g} s")
        with start_client(target, open_loop_plan(rate, seconds, seed=_SEED)) as client:
            found = client.result()
    answered = found["requests"] - found["failed"]
    tell(f"{answered / seconds:.0f} answered a second, p99 {found['p99_ms']:.0f} ms")
    return {
        "num_rows": num_rows,
        "capacity": capacity,
        "times": _TIMES,
        "target_ms": _TARGET_MS,
        "goodput_share": answered / seconds / capacity,
        **found,
    }
