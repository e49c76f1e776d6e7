"""The closed loop: a number of connections that each ask again as soon as they are answered.

It is `wrk` where that is installed, and else a slower client of our own; the results say which. A closed loop says how
much a server can do. It says little about how long callers wait, as a slow answer keeps the next request from being
sent: that is what the open loop is for.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.calls import start_client
from benchmarks.serving.target import Target

_SCRIPT = Path(__file__).with_name("wrk.lua")
_MARK = "FIGURES "
_GRACE_SECONDS = 60
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Closed:
    """One measurement. `failed` counts broken connections, time-outs and answers that are no success; none is in the
    rate."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def client_name() -> str:
    """What the closed loop is driven by here."""
    return "wrk" if shutil.which("wrk") else "python (wrk is not installed; on Debian: apt-get install wrk)"


def closed_loop(target: Target, connections: int, seconds: float) -> Closed:
    """Load `target` for so long.

    Raises:
        RuntimeError: the client fails.
    """
    found = _wrk(target, connections, seconds) if shutil.which("wrk") else _own(target, connections, seconds)
    answered = max(found["requests"] - found["failed"], 0)
    return Closed(answered / found["seconds"], found["p50_ms"], found["p99_ms"], found["failed"])


def parse_wrk(output: str) -> dict[str, Any]:
    """The figures that `wrk.lua` printed.

    Raises:
        ValueError: it printed none.
    """
    lines = [line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK)]
    if len(lines) != 1:
        raise ValueError(f"wrk printed {len(lines)} lines of figures instead of 1: {output[-500:]}")
    found: dict[str, Any] = json.loads(lines[0])
    return found


def wrk_command(target: Target, connections: int, seconds: float, parts: tuple[Path, Path], first: int) -> list[str]:
    # One thread: the load must leave the cores to the server, and one is enough for many times what any of them does.
    options = ("--threads", "1", "--connections", str(connections), "--duration", f"{max(round(seconds), 1)}s")
    timeout = ("--timeout", f"{_TIMEOUT_SECONDS}s")
    return ["wrk", *options, *timeout, "--script", str(_SCRIPT), target.url, "--", *map(str, parts), str(first)]


def _wrk(target: Target, connections: int, seconds: float) -> dict[str, Any]:
    template = target.template
    with tempfile.TemporaryDirectory(prefix="millrace-wrk-") as folder:
        head, tail = Path(folder) / "head", Path(folder) / "tail"
        head.write_bytes(target.head + template.head)
        tail.write_bytes(template.tail)
        command = wrk_command(target, connections, seconds, (head, tail), first_number())
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _GRACE_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"wrk failed: {done.stderr or done.stdout}")
    return parse_wrk(done.stdout)


def _own(target: Target, connections: int, seconds: float) -> dict[str, Any]:
    with start_client(target, {"kind": "closed", "connections": connections, "seconds": seconds}) as client:
        return client.result()


def first_number() -> int:
    """Another one at each call, so that two loads do not ask the same."""
    return time.monotonic_ns() // 1000 % 5_000_000
