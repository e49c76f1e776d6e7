"""What wrk is asked for and what it printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serving.dialects import ROWS
from benchmarks.serving.fixture import Fixture
from benchmarks.serving.load import parse_wrk, wrk_command
from benchmarks.serving.target import Target

OUTPUT = """Running 2s test @ http://127.0.0.1:8000/predict
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.64ms    1.02ms  20.11ms   80.00%
    Req/Sec     4.40k   312.11     4.90k    70.00%
  8761 requests in 2.00s, 1.45MB read
Requests/sec:   4378.51
FIGURES {"requests": 8761, "seconds": 2.000913, "p50_ms": 3.402, "p99_ms": 7.310, "max_ms": 20.110, "failed": 2}
"""


def test_the_line_of_figures_is_found() -> None:
    found = parse_wrk(OUTPUT)
    assert (found["requests"], found["p50_ms"], found["failed"]) == (8761, 3.402, 2)


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1", OUTPUT + OUTPUT])
def test_no_figures_or_two_are_an_error(output: str) -> None:
    with pytest.raises(ValueError, match="lines of figures"):
        parse_wrk(output)


def test_wrk_runs_one_thread_for_whole_seconds() -> None:
    target = Target("127.0.0.1", 8000, "/predict", ROWS, Fixture(Path(), {}, ()))
    command = wrk_command(target, 16, 0.4, (Path("head"), Path("tail")), 7)
    assert command[:7] == ["wrk", "--threads", "1", "--connections", "16", "--duration", "1s"]
    assert command[-5:] == ["http://127.0.0.1:8000/predict", "--", "head", "tail", "7"]
