"""Several versions answer at once, by a plan that changes while requests are on their way."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.errors import FencedError, MillraceError, PackageError
from millrace.inference_log import read_answers, read_failures
from millrace.keys import KeyFile
from millrace.settings import Settings
from millrace.spec.load import parse_spec
from millrace.traffic_rules import TrafficChange, TrafficRules, VersionShare
from ray_jobs.serve.app import Replica
from ray_jobs.serve.door import Door
from ray_jobs.serve.load import ServiceLoad
from ray_jobs.serve.plan import TrafficPlan
from ray_jobs.serve.service import PredictionService
from ray_jobs.serve.versions import Target, load_version
from tests.unit.ray_jobs.serve.asking import Ask, asking
from tests.unit.ray_jobs.serve.world import World

ROW = {"delay": 1.5, "carrier": "UA"}
BODY = {"rows": [ROW]}


def run(work: Awaitable[Any]) -> Any:
    async def wait() -> Any:
        return await work

    return asyncio.run(wait())


@pytest.fixture
def targets(world: World) -> dict[str, Target]:
    return {version: world.publish(version) for version in ("1", "2", "3")}


@pytest.fixture
def plan(targets: Mapping[str, Target]) -> Callable[..., TrafficPlan]:
    """A plan by a change, with version 1 as the primary."""

    def make(primary: str = "1", token: int = 0, **change: Any) -> TrafficPlan:
        rules = TrafficChange(**change).of(TrafficRules.only(primary))
        first = Target(primary, targets[primary].package_key, targets[primary].package_digest, token)
        return TrafficPlan.of(first, targets.values(), rules)

    return make


def replica_of(service: PredictionService) -> Replica:
    """A replica of this service, without the process that Serve makes for one."""
    replica = Replica.__new__(Replica)
    replica._service, replica._load = service, ServiceLoad()
    return replica


def answers_of(world: World, targets: Mapping[str, Target]) -> dict[str, float]:
    """What each version answers to the row, computed without the service."""
    found = {}
    for version, target in targets.items():
        loaded = load_version(target, world.store, world.pipeline)
        found[version] = float(
            loaded.predictor.predict(loaded.contract.parse(httpx.Request("POST", "http://x", json=BODY).content).batch)[
                0
            ]
        )
    return found


def test_each_version_answers_its_share_and_names_itself(
    service: PredictionService, ask: Ask, world: World, targets: dict[str, Target], plan: Callable[..., TrafficPlan]
) -> None:
    run(service.load(plan(shares={"1": 0.5, "2": 0.3, "3": 0.2})))
    expected = answers_of(world, targets)
    assert len(set(expected.values())) == 3
    found = [ask("POST", "/predict", json=BODY).json() for _ in range(120)]
    assert {document["version"] for document in found} == {"1", "2", "3"}
    for document in found:
        assert document["predictions"][0]["probability"] == pytest.approx(expected[document["version"]])
    rows = read_answers(world.log_folder, world.pipeline.spec.data).set_index("request_id")
    assert rows["version"].to_dict() == {document["request_id"]: document["version"] for document in found}


def test_the_realised_share_is_within_half_a_point(
    service: PredictionService, plan: Callable[..., TrafficPlan]
) -> None:
    run(service.load(plan(shares={"1": 0.9, "2": 0.1}, canary=VersionShare("3", 0.02))))
    live = service._current()
    counted = Counter(
        live.serving_of("", "", f"request-{number}", service._draw()).version.target.version
        for number in range(100_000)
    )
    assert abs(counted["3"] / 100_000 - 0.02) < 0.005
    assert abs(counted["2"] / 100_000 - 0.098) < 0.005


def test_a_session_stays_with_its_version(
    ask: Ask, service: PredictionService, plan: Callable[..., TrafficPlan]
) -> None:
    def versions() -> dict[str, str]:
        return {
            session: ask("POST", "/predict", json=BODY, headers={"x-session-id": session}).json()["version"]
            for session in (f"session-{number}" for number in range(60))
        }

    run(service.load(plan(shares={"1": 0.7, "2": 0.3})))
    first = versions()
    assert set(first.values()) == {"1", "2"}
    assert versions() == first
    run(service.load(plan(shares={"1": 0.4, "2": 0.6})))
    second = versions()
    assert all(second[session] == "2" for session, version in first.items() if version == "2")


def test_a_pinned_customer_meets_its_version_and_no_canary(
    world: World, tmp_path: Path, plan: Callable[..., TrafficPlan]
) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    bearer = {name: {"authorization": f"Bearer {keys.create(name)[1]}"} for name in ("acme", "umbrella")}
    service = PredictionService(
        world.pipeline, world.store, world.log_folder, door=Door.of(Settings(keys_file=keys.path))
    )
    run(service.load(plan(pins={"acme": "2"}, canary=VersionShare("3", 0.5))))
    ask = asking(service)
    found = {
        name: Counter(ask("POST", "/predict", json=BODY, headers=headers).json()["version"] for _ in range(40))
        for name, headers in bearer.items()
    }
    service.close()
    assert found["acme"] == {"2": 40}
    assert set(found["umbrella"]) == {"1", "3"}


def test_a_change_loses_no_request_and_mixes_none(
    service: PredictionService, world: World, targets: dict[str, Target], plan: Callable[..., TrafficPlan]
) -> None:
    plans = [
        plan(shares={"1": 0.5, "2": 0.5}),
        plan(primary="2"),
        plan(primary="2", shares={"2": 0.2, "3": 0.8}),
        plan(primary="3", canary=VersionShare("1", 0.5)),
        plan(),
    ]
    expected = answers_of(world, targets)

    async def changed_meanwhile() -> list[httpx.Response]:
        await service.load(plans[-1])
        done = asyncio.Event()
        found: list[httpx.Response] = []
        http = httpx.ASGITransport(service, root_path="/v1/tiny")

        async def caller() -> None:
            async with httpx.AsyncClient(transport=http, base_url="http://test/v1/tiny") as client:
                while not done.is_set():
                    found.append(await client.post("/predict", json=BODY))

        callers = [asyncio.ensure_future(caller()) for _ in range(8)]
        for each in plans:
            await service.load(each)
            before = len(found)
            while len(found) < before + 40:
                await asyncio.sleep(0)
            # All requests that were under way at the change have their answers by now.
            assert {answer.json()["version"] for answer in found[before + 8 :]} <= each.rules.answering
        done.set()
        await asyncio.gather(*callers)
        return found

    found = run(changed_meanwhile())
    assert {answer.status_code for answer in found} == {200}
    documents = [answer.json() for answer in found]
    assert {document["version"] for document in documents} == {"1", "2", "3"}
    for document in documents:
        assert document["predictions"][0]["probability"] == pytest.approx(expected[document["version"]])
    rows = read_answers(world.log_folder, world.pipeline.spec.data).set_index("request_id")
    assert rows["version"].to_dict() == {document["request_id"]: document["version"] for document in documents}


def test_what_stays_is_not_loaded_again_and_what_goes_gives_its_last_answer_first(
    service: PredictionService, plan: Callable[..., TrafficPlan]
) -> None:
    async def changes() -> None:
        await service.load(plan(shares={"1": 0.5, "2": 0.5}))
        both = service._current().servings
        log = both["1"].answers
        assert both["2"].answers is log, "one log for all"
        with both["2"].used():
            going = asyncio.ensure_future(service.load(plan(shares={"1": 0.5, "3": 0.5})))
            while service._current().servings.keys() != {"1", "3"}:
                await asyncio.sleep(0.001)
            assert not going.done(), "a request of version 2 has no answer yet"
        await going
        now = service._current().servings
        assert now["1"] is both["1"]
        assert now["3"].answers is log
        assert now["1"].version.batcher.peers == (now["3"].version.batcher,)
        await service.load(plan(primary="3"))
        assert service._current().primary.version.batcher.peers == ()
        # Still in use, though the version is gone that opened it.
        log.append({"request_id": "x"})

    run(changes())


def test_versions_that_take_other_requests_do_not_answer_beside_each_other(
    service: PredictionService, ask: Ask, world: World, targets: dict[str, Target]
) -> None:
    run(service.load(targets["1"]))
    spec = world.pipeline.spec.model_dump(mode="json")
    for version, told, feature in (
        ("8", "data.features.delay", {"kind": "numeric", "min": -10.0, "max": 200.0}),
        ("9", "data.features.weather", {"kind": "categorical", "values": ["sun"], "nullable": True}),
    ):
        features = spec["data"]["features"] | {told.rpartition(".")[2]: feature}
        other = world.publish(version, spec=parse_spec({**spec, "data": spec["data"] | {"features": features}}))
        rules = TrafficChange(pins={"acme": version}).of(TrafficRules.only("1"))
        with pytest.raises(PackageError, match=f"(?s)version {version} cannot answer beside version 1.*{told}"):
            run(service.prepare(TrafficPlan.of(targets["1"], [other], rules)))
        assert service.plan == TrafficPlan.alone(targets["1"])
        assert ask("POST", "/predict", json=BODY).json()["version"] == "1"


def test_a_version_that_cannot_be_loaded_leaves_the_plan_as_it_was(
    service: PredictionService, world: World, targets: dict[str, Target], plan: Callable[..., TrafficPlan]
) -> None:
    good = plan(shares={"1": 0.5, "2": 0.5})
    run(service.load(good))
    rules = TrafficChange(shares={"1": 0.5, "9": 0.5}).of(TrafficRules.only("1"))
    bad = TrafficPlan.of(targets["1"], [world.publish("9", broken=True)], rules)
    with pytest.raises(PackageError):
        run(service.load(bad))
    assert service.plan == good


def test_a_replica_that_starts_with_a_bad_version_beside_its_primary_answers_with_the_primary(
    service: PredictionService, world: World, targets: dict[str, Target]
) -> None:
    rules = TrafficChange(shares={"1": 0.5, "9": 0.5}).of(TrafficRules.only("1"))
    bad = TrafficPlan.of(targets["1"], [world.publish("9", broken=True)], rules)
    replica = replica_of(service)
    run(replica.reconfigure(bad.as_config() | {"code": "x"}))
    assert service.plan == TrafficPlan.alone(targets["1"])
    assert isinstance(run(replica.activate(bad.as_config())), PackageError), "who asks for it is told"
    alone = TrafficPlan.alone(bad.others[0])
    with pytest.raises(PackageError):
        run(replica.reconfigure(alone.as_config()))


def test_a_replica_takes_a_plan_in_two_steps(
    service: PredictionService, ask: Ask, plan: Callable[..., TrafficPlan]
) -> None:
    replica = replica_of(service)
    first, second = plan(token=1), plan(token=2, shares={"1": 0.5, "2": 0.5})
    run(replica.reconfigure(first.as_config()))
    assert run(replica.prepare(second.as_config())) is None
    assert service.plan == first
    assert run(replica.activate(second.as_config())) is None
    assert service.plan == second
    assert isinstance(run(replica.activate(first.as_config())), FencedError)
    told = ask("GET", "/").json()
    assert (told["version"], told["traffic"]["shares"]) == ("1", {"1": 0.5, "2": 0.5})
    assert told["traffic"]["rules"] == second.rules.digest


def test_a_failure_is_logged_with_the_version_that_failed(
    service: PredictionService,
    ask: Ask,
    world: World,
    plan: Callable[..., TrafficPlan],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(service.load(plan(shares={"1": 0.5, "2": 0.5})))
    second = service._current().servings["2"]
    monkeypatch.setattr(second.version.batcher, "execute", lambda _: 1 / 0)
    statuses = Counter(ask("POST", "/predict", json=BODY).status_code for _ in range(60))
    assert statuses.keys() == {200, 500}
    failures = read_failures(world.log_folder)
    assert len(failures) == statuses[500]
    assert set(failures["version"]) == {"2"}


def test_who_names_a_version_is_answered_by_it(
    service: PredictionService, ask: Ask, plan: Callable[..., TrafficPlan]
) -> None:
    run(service.load(plan(shares={"1": 0.9, "2": 0.1}, canary=VersionShare("3", 0.2))))
    inputs = [
        {"name": "delay", "shape": [1], "datatype": "FP64", "data": [1.5]},
        {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]},
    ]

    def infer(version: str) -> httpx.Response:
        return ask("POST", f"/v2/models/tiny/versions/{version}/infer", json={"inputs": inputs})

    for version in ("1", "2"):
        assert {infer(version).json()["model_version"] for _ in range(10)} == {version}
        assert ask("GET", f"/v2/models/tiny/versions/{version}").json()["versions"] == [version]
    # What is asked of a canary by name would be no random draw.
    for absent in ("3", "4"):
        assert infer(absent).status_code == 404


def test_random_plans_leave_the_newest_in_force(service: PredictionService, plan: Callable[..., TrafficPlan]) -> None:
    plans = [
        plan(primary=primary, token=token, shares=shares)
        for token, (primary, shares) in enumerate(
            itertools.product("12", ({"1": 1.0}, {"2": 0.5, "3": 0.5}, {"1": 0.3, "2": 0.7}))
        )
    ]

    async def together() -> list[MillraceError | None]:
        found: list[Any] = await asyncio.gather(*map(service.load, plans), return_exceptions=True)
        return found

    found = run(together())
    assert all(error is None or isinstance(error, FencedError) for error in found)
    assert service.plan == plans[-1]
