"""SIGKILL of replicas under load: how many requests are lost, of how many."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.figures import spread
from benchmarks.serving.fixture import make_fixture
from benchmarks.serving.millrace_server import Driver, serving_millrace
from benchmarks.serving.options import Options
from tests.waiting import until

REPLICAS = 2

_SEED = 2013
_BACK_SECONDS = 120.0
_ANSWERS_BETWEEN = 200
#: The load ends when the last replica is back, long before this.
_LONGEST_SECONDS = 3600.0


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """`options.kills` replicas of two, one after the other, each once the one before is back."""
    rng = random.Random(_SEED)
    back = []
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        serving_millrace(make_fixture(Path(folder)), replicas=REPLICAS) as server,
    ):
        server.target.check()
        plan = open_loop_plan(options.load_rate, _LONGEST_SECONDS, seed=_SEED)
        with start_client(server.target, plan) as client:
            client.wait_for_answers(_ANSWERS_BETWEEN)
            for number in range(options.kills):
                back.append(kill(server.driver, rng))
                client.wait_for_answers(_ANSWERS_BETWEEN)
                counted = f"{client.answered} answered, {client.failed} failed"
                tell(f"kill {number + 1}: back after {back[-1]:.1f} s; {counted}")
            client.stop()
            found = client.result()
    return {"kills": {"count": options.kills, "rate": options.load_rate, "back_seconds": spread(back), **found}}


def running(driver: Driver) -> set[int]:
    """The processes that answer."""
    return {replica.pid for replica in driver.replicas() if replica.state == "RUNNING" and replica.pid is not None}


def kill(driver: Driver, rng: random.Random) -> float:
    """Kill one replica; the seconds until there are as many as before, without it."""
    before = until(lambda: len(found := running(driver)) == REPLICAS and found, "all replicas", _BACK_SECONDS)
    assert before
    victim = rng.choice(sorted(before))
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()

    def is_back() -> bool:
        found = running(driver)
        return len(found) == REPLICAS and victim not in found

    until(is_back, "the killed replica", _BACK_SECONDS)
    return time.monotonic() - killed
