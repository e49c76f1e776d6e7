"""Replicas that are killed and replaced under load lose no request: the benchmarks' drills, in short."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.fixture import make_fixture
from benchmarks.serving.kills import REPLICAS, kill
from benchmarks.serving.millrace_server import serving_millrace
from benchmarks.serving.redeploys import deploy_new_code

RATE = 60.0
ANSWERS = 60


@pytest.mark.timeout(400)
def test_killed_and_replaced_replicas_lose_no_request(tmp_path: Path) -> None:
    rng = random.Random(7)
    with serving_millrace(make_fixture(tmp_path, 2), replicas=REPLICAS, versions=2) as server:
        server.target.check()
        with start_client(server.target, open_loop_plan(RATE, 3600.0, seed=7)) as client:
            client.wait_for_answers(ANSWERS)
            for _ in range(2):
                kill(server.driver, rng)
                client.wait_for_answers(ANSWERS)
            server.driver.deploy(2)
            client.wait_for_answers(ANSWERS)
            deploy_new_code(server, 2, "other code")
            client.wait_for_answers(ANSWERS)
            client.stop()
            found = client.result()
    assert found["requests"] >= 5 * ANSWERS
    assert found["failed"] == 0, found["problems"]
