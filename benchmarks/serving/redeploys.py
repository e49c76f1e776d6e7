"""Another version, and other code, under load: how many requests are lost, of how many."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.figures import latencies, spread
from benchmarks.serving.fixture import make_fixture
from benchmarks.serving.kills import REPLICAS, running
from benchmarks.serving.millrace_server import Server, serving_millrace
from benchmarks.serving.options import Options
from tests.waiting import until

_SEED = 2013
_VERSIONS = 2
_DONE_SECONDS = 120.0
_ANSWERS_BETWEEN = 200
_LONGEST_SECONDS = 3600.0


#: After a deploy is through, what it left waiting is still its own.
_AFTER_SECONDS = 0.5

Interval = tuple[float, float]


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """`options.redeploys` times in turn: another version in the running replicas; the same version in new ones.

    `version_p99_ratio` and `code_p99_ratio` are of the p99 during those and at all other times of the same load.
    """
    seconds: dict[str, list[float]] = {"version": [], "code": []}
    spans: dict[str, list[Interval]] = {"version": [], "code": []}
    version = 1
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        serving_millrace(make_fixture(Path(folder), _VERSIONS), replicas=REPLICAS, versions=_VERSIONS) as server,
    ):
        server.target.check()
        plan = open_loop_plan(options.load_rate, _LONGEST_SECONDS, seed=_SEED) | {"timeline": True}
        with start_client(server.target, plan) as client:
            client.wait_for_answers(_ANSWERS_BETWEEN)
            for number in range(options.redeploys):
                kind = "version" if number % 2 == 0 else "code"
                began = time.monotonic()
                if kind == "version":
                    version = _VERSIONS + 1 - version
                    seconds[kind].append(server.driver.deploy(version))
                else:
                    seconds[kind].append(deploy_new_code(server, version, f"redeploy-{number}"))
                spans[kind].append((began, time.monotonic() + _AFTER_SECONDS))
                client.wait_for_answers(_ANSWERS_BETWEEN)
                took = seconds[kind][-1]
                tell(
                    f"redeploy {number + 1} ({kind}): {took:.1f} s; {client.answered} answered, {client.failed} failed"
                )
            client.stop()
            found = client.result()
    about: dict[str, Any] = {f"{kind}_seconds": spread(took) for kind, took in seconds.items() if took}
    about |= by_phase(found.pop("timeline"), spans)
    return {"redeploys": {"count": options.redeploys, "rate": options.load_rate, **about, **found}}


def by_phase(timeline: Sequence[tuple[float, float]], spans: Mapping[str, Sequence[Interval]]) -> dict[str, Any]:
    """The p99 of the requests (when due, seconds) that were due in the `spans` of each kind, and of all others."""
    found: dict[str, list[float]] = {name: [] for name in ("steady", *spans)}
    for due, seconds in timeline:
        kind = next(
            (name for name, each in spans.items() if any(since <= due < until for since, until in each)), "steady"
        )
        found[kind].append(seconds)
    p99s = {kind: latencies(each)["p99_ms"] for kind, each in found.items() if each}
    ratios = {f"{kind}_p99_ratio": p99s[kind] / p99s["steady"] for kind in spans if kind in p99s}
    return {**{f"{kind}_p99_ms": p99 for kind, p99 in p99s.items()}, **ratios}


def deploy_new_code(server: Server, version: int, code: str) -> float:
    """Deploy the version as other code, and wait until only new processes answer."""
    before = running(server.driver)
    took = server.driver.deploy(version, code)

    def is_replaced() -> bool:
        pids = {replica.pid for replica in server.driver.replicas()}
        return len(pids) == REPLICAS and not pids & before

    until(is_replaced, "the end of the old replicas", _DONE_SECONDS)
    return took
