"""Several versions at once on a real Ray cluster behind HAProxy: changed under load, kept over a kill, mirrored."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from millrace import inference_log
from millrace.pipeline import load_pipeline
from millrace.shadow import judge_shadow
from millrace.signing import Keys
from millrace.storage import ObjectStore
from millrace.traffic_rules import TrafficChange, TrafficRules, VersionShare
from ray_jobs.serve.plan import TrafficPlan
from ray_jobs.serve.shadow import Shadow
from ray_jobs.serve.versions import Target, load_version
from tests.integration.test_serving import BODY, Cluster, Load
from tests.waiting import until

pytestmark = pytest.mark.integration

#: Five standard deviations of a share over 2,000 requests, at the most.
_NEAR = 0.056
_REQUESTS = 2_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("traffic"))
    try:
        yield cluster
    finally:
        assert cluster.close() == []


@pytest.fixture
def serving(cluster: Cluster) -> Cluster:
    """Version 1 serves, alone."""
    assert cluster.deploy("1")["version"] == "1"
    until(lambda: httpx.get(f"{cluster.url}/ready").status_code == 200, "the route")
    return cluster


def plan(cluster: Cluster, primary: str = "1", **change: Any) -> TrafficPlan:
    targets = {version: Target(version, *package) for version, package in cluster.packages.items()}
    rules = TrafficChange(**change).of(TrafficRules.only(primary))
    return TrafficPlan.of(targets[primary], targets.values(), rules)


def told(cluster: Cluster) -> Any:
    return httpx.get(f"{cluster.url}/").json()["traffic"]


def test_the_division_changes_under_load_within_a_second_and_no_request_is_dropped(serving: Cluster) -> None:
    replicas = serving.ask("replicas", "tiny")
    shares = ({"1": 0.9, "2": 0.1}, {"1": 0.5, "2": 0.5}, {"1": 0.2, "2": 0.3, "3": 0.5})
    with Load(serving.url) as load:
        load.wait(100)
        for wanted in shares:
            done = serving.divide(plan(serving, shares=wanted))
            assert done["switch_seconds"] < 1
            begun = len(load.requests)
            load.wait(_REQUESTS)
            # What was under way at the change is out by now.
            counted = Counter(version for *_, version in load.requests[begun + 16 :])
            total = sum(counted.values())
            for version, share in wanted.items():
                assert abs(counted[version] / total - share) < _NEAR, counted
        again = serving.divide(plan(serving, shares=shares[0]))
    assert load.failures == []
    assert again["seconds"] < 2, "all is loaded: nothing but the rules changes"
    assert serving.ask("replicas", "tiny") == replicas
    data = load_pipeline("tiny", serving.root / "pipelines").spec.data
    rows = inference_log.read_answers(serving.root / "state" / "inference" / "tiny", data)
    logged = rows.set_index("request_id")["version"]
    assert all(logged[request_id] == version for _, _, request_id, version in load.requests)


def test_a_session_meets_one_version_until_its_share_moves(serving: Cluster) -> None:
    def versions() -> dict[str, str]:
        with httpx.Client() as client:
            return {
                name: client.post(f"{serving.url}/predict", json=BODY, headers={"x-session-id": name}).json()["version"]
                for name in (f"session-{number}" for number in range(100))
            }

    serving.divide(plan(serving, shares={"1": 0.6, "2": 0.4}))
    first = versions()
    assert first == versions()
    assert set(first.values()) == {"1", "2"}
    serving.divide(plan(serving, shares={"1": 0.3, "2": 0.7}))
    second = versions()
    assert all(second[name] == "2" for name, version in first.items() if version == "2")


def test_a_canary_is_drawn_anew_for_each_request(serving: Cluster) -> None:
    serving.divide(plan(serving, canary=VersionShare("2", 0.5)))
    with httpx.Client() as client:
        headers = {"x-session-id": "one"}
        found = {client.post(f"{serving.url}/predict", json=BODY, headers=headers).json()["version"] for _ in range(60)}
    assert found == {"1", "2"}


@pytest.mark.parametrize(("version", "error"), [("other", "DigestError"), ("broken", "PackageError")])
def test_a_bad_version_is_refused_and_the_division_stays(serving: Cluster, version: str, error: str) -> None:
    good = plan(serving, shares={"1": 0.5, "2": 0.5})
    serving.divide(good)
    with Load(serving.url) as load:
        assert serving.divide(plan(serving, shares={"1": 0.5, version: 0.5}))["error"] == error
        load.wait(50)
    assert load.failures == []
    assert told(serving)["rules"] == good.rules.digest


def test_a_killed_replica_comes_back_with_the_division(serving: Cluster) -> None:
    divided = plan(serving, shares={"1": 0.5, "2": 0.5}, pins={"acme": "3"})
    serving.divide(divided)
    (replica,) = serving.ask("replicas", "tiny")
    os.kill(replica, signal.SIGKILL)
    until(lambda: serving.ask("replicas", "tiny") not in ([replica], []), "a new replica")
    until(lambda: httpx.get(f"{serving.url}/ready").status_code == 200, "the route")
    assert told(serving)["rules"] == divided.rules.digest
    assert told(serving)["versions"].keys() == {"1", "2", "3"}


def test_the_next_version_that_serves_answers_alone(serving: Cluster) -> None:
    serving.divide(plan(serving, shares={"1": 0.5, "2": 0.5}))
    with Load(serving.url) as load:
        load.wait(50)
        serving.deploy("2")
        begun = len(load.requests)
        load.wait(200)
    assert load.failures == []
    assert {version for *_, version in load.requests[begun + 16 :]} == {"2"}


def test_a_shadow_sees_what_is_answered_and_replicas_know_nothing_of_it(serving: Cluster) -> None:
    folder = serving.root / "state" / "inference" / "tiny"
    pipeline = load_pipeline("tiny", serving.root / "pipelines")
    store = ObjectStore(str(serving.root / "state" / "objects"), Keys(serving.root / "state" / "signing.key"))
    shadow = Shadow(load_version(Target("2", *serving.packages["2"]), store, pipeline), 0.5, folder)
    with Load(serving.url) as load:
        seen = [0]

        def mirrored() -> bool:
            seen[0] += shadow.look()
            return seen[0] >= 200

        until(mirrored, "200 mirrored requests")
    shadow.look()
    shadow.close()
    assert load.failures == []
    assert {version for *_, version in load.requests} == {"1"}
    rows = inference_log.read_shadow(folder, pipeline.spec.data)
    assert set(rows["request_id"]) <= {request_id for _, _, request_id, _ in load.requests}
    verdict = judge_shadow(rows, pipeline.spec.data.label)
    assert verdict.observed in (0.0, 1.0), "all ask the same"
    assert set(told(serving)["versions"]) == {"1"}
