"""Another version, and other code, under load: how many requests are lost, of how many."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.figures import spread
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


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """`options.redeploys` times in turn: another version in the running replicas; the same version in new ones."""
    seconds: dict[str, list[float]] = {"version": [], "code": []}
    version = 1
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        serving_millrace(make_fixture(Path(folder), _VERSIONS), replicas=REPLICAS, versions=_VERSIONS) as server,
    ):
        server.target.check()
        with start_client(server.target, open_loop_plan(options.load_rate, _LONGEST_SECONDS, seed=_SEED)) as client:
            client.wait_for_answers(_ANSWERS_BETWEEN)
            for number in range(options.redeploys):
                kind = "version" if number % 2 == 0 else "code"
                if kind == "version":
                    version = _VERSIONS + 1 - version
                    seconds[kind].append(server.driver.deploy(version))
                else:
                    seconds[kind].append(deploy_new_code(server, version, f"redeploy-{number}"))
                client.wait_for_answers(_ANSWERS_BETWEEN)
                took = seconds[kind][-1]
                tell(
                    f"redeploy {number + 1} ({kind}): {took:.1f} s; {client.answered} answered, {client.failed} failed"
                )
            client.stop()
            found = client.result()
    about = {f"{kind}_seconds": spread(took) for kind, took in seconds.items() if took}
    return {"redeploys": {"count": options.redeploys, "rate": options.load_rate, **about, **found}}


def deploy_new_code(server: Server, version: int, code: str) -> float:
    """Deploy the version as other code, and wait until only new processes answer."""
    before = running(server.driver)
    took = server.driver.deploy(version, code)

    def is_replaced() -> bool:
        pids = {replica.pid for replica in server.driver.replicas()}
        return len(pids) == REPLICAS and not pids & before

    until(is_replaced, "the end of the old replicas", _DONE_SECONDS)
    return took
