"""Millrace under a steady rate of requests from independent callers, each measured from the time it was due."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.fixture import make_fixture
from benchmarks.serving.millrace_server import serving_millrace
from benchmarks.serving.options import Options

_SEED = 2013
_WARM_SECONDS = 3.0


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """`options.rate` requests a second for `options.open_loop_seconds`, one replica."""
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        serving_millrace(make_fixture(Path(folder))) as server,
    ):
        server.target.check()
        with start_client(server.target, open_loop_plan(options.rate, _WARM_SECONDS, seed=_SEED)) as client:
            client.result()
        tell(f"{options.rate:g} requests/s for {options.open_loop_seconds:g} s")
        plan = open_loop_plan(options.rate, options.open_loop_seconds, seed=_SEED + 1)
        with start_client(server.target, plan) as client:
            found = client.result()
    return {"open_loop": {"rate": options.rate, **found, "seconds": options.open_loop_seconds}}
