"""Who may ask a replica for predictions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local import haproxy_config
from millrace.errors import ForeignRequestError, ServiceError, TooManyRequestsError, UnknownCallerError
from millrace.inference_log import read_answers
from millrace.keys import KeyFile
from millrace.limits import HOLD_SECONDS, Limit
from millrace.quotas import Usage, day_of
from millrace.settings import Settings
from millrace.spec.serving import AutoscalingSpec, CustomerLimitSpec
from ray_jobs.serve.door import NOBODY, Door
from ray_jobs.serve.problems import HOLD, problem
from ray_jobs.serve.service import INGRESS_REFUSED, PredictionService

HOME = (b"host", b"127.0.0.1:8000")
BODY = {"rows": [{"delay": 1.5, "carrier": "UA"}]}


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


class Clock:
    """Each look at it is a second later."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def door(keys: KeyFile) -> Door:
    return replace(Door.of(Settings(keys_file=keys.path)), clock=Clock())


def bearer(key: str, scheme: str = "Bearer") -> tuple[bytes, bytes]:
    return b"authorization", f"{scheme} {key}".encode()


def test_on_loopback_without_keys_everybody_near_may_ask(door: Door) -> None:
    for host in (b"127.0.0.1:8000", b"localhost:8000", b"LOCALHOST", b"[::1]:8000", b"[::1]"):
        assert door.check([(b"host", host)]) == NOBODY
    assert door.check([HOME, (b"origin", b"http://127.0.0.1:8000")]) == NOBODY


@pytest.mark.parametrize("host", [b"", b"evil.example", b"evil.example:8000", b"127.0.0.1.evil.example:8000"])
def test_a_name_that_somebody_points_to_loopback_is_refused(host: bytes, door: Door) -> None:
    with pytest.raises(ForeignRequestError, match="another name"):
        door.check([(b"host", host)])


@pytest.mark.parametrize("origin", [b"http://evil.example", b"null", b"http://127.0.0.1:3000", b"file://"])
def test_a_page_of_another_origin_is_refused(origin: bytes, door: Door) -> None:
    with pytest.raises(ForeignRequestError, match="another origin"):
        door.check([HOME, (b"origin", origin)])


def test_a_company_names_its_endpoint_in_the_settings(keys: KeyFile) -> None:
    door = Door.of(Settings(keys_file=keys.path, serve_url="https://predict.example"))
    assert door.check([(b"host", b"predict.example")]) == NOBODY


def test_the_first_key_closes_the_door_at_once(door: Door, keys: KeyFile) -> None:
    assert door.check([HOME]) == NOBODY
    _, key = keys.create("acme")
    with pytest.raises(UnknownCallerError, match="no key"):
        door.check([HOME])
    assert door.check([HOME, bearer(key)]) == "acme"
    assert door.check([HOME, bearer(key, "bearer")]) == "acme"
    assert door.check([(b"host", b"predict.example"), bearer(key)]) == "acme", "a key is good under any name"


def test_a_revoked_key_is_refused_and_the_last_one_does_not_open_the_door(door: Door, keys: KeyFile) -> None:
    made, key = keys.create("acme")
    assert door.check([HOME, bearer(key)]) == "acme"
    keys.revoke(made.id)
    for headers in ([HOME], [HOME, bearer(key)]):
        with pytest.raises(UnknownCallerError):
            door.check(headers)


def test_beyond_loopback_a_key_is_demanded_before_there_is_one(keys: KeyFile) -> None:
    door = replace(Door.of(Settings(keys_file=keys.path, listen="0.0.0.0")), clock=Clock())
    with pytest.raises(UnknownCallerError):
        door.check([HOME])
    _, key = keys.create("acme")
    assert door.check([HOME, bearer(key)]) == "acme"


@given(given=st.binary(max_size=80))
def test_no_other_header_opens_the_door(given: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = KeyFile(tmp_path_factory.getbasetemp() / "one-key" / "keys.json")
    if not keys.path.exists():
        keys.create("acme")
    door = Door.of(Settings(keys_file=keys.path))
    for header in (given, b"Bearer " + given, b"Bearer " + keys.read().keys[0].digest.encode()):
        with pytest.raises(UnknownCallerError):
            door.check([HOME, (b"authorization", header)])


def test_a_damaged_file_lets_nobody_in(door: Door, keys: KeyFile) -> None:
    _, key = keys.create("acme")
    assert door.check([HOME, bearer(key)]) == "acme"
    keys.path.write_text("{")
    for headers in ([HOME], [HOME, bearer(key)]):
        with pytest.raises(ServiceError, match="keys cannot be read"):
            door.check(headers)


def test_the_file_is_looked_at_five_times_a_second(keys: KeyFile) -> None:
    moments = [0.0, 0.1, 0.19, 0.2]
    door = replace(Door.of(Settings(keys_file=keys.path)), clock=lambda: moments.pop(0))
    assert door.check([HOME]) == NOBODY
    keys.create("acme")
    assert door.check([HOME]) == NOBODY
    assert door.check([HOME]) == NOBODY
    with pytest.raises(UnknownCallerError):
        door.check([HOME])


def test_an_unchanged_file_is_not_read_again(door: Door, keys: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = keys.create("acme")
    assert door.check([bearer(key)]) == "acme"
    monkeypatch.setattr(KeyFile, "read", lambda self: pytest.fail("read again"))
    assert door.check([bearer(key)]) == "acme"
    found = keys.path.stat()
    os.utime(keys.path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        door.check([bearer(key)])


def test_over_http_a_key_is_demanded_of_predictions_and_outcomes_only(world: Any, door: Door, keys: KeyFile) -> None:
    _, key = keys.create("acme")
    service = PredictionService(world.pipeline, world.store, world.log_folder, door=door)

    async def ask(method: str, path: str, **options: Any) -> httpx.Response:
        http = httpx.ASGITransport(service, root_path="/v1/tiny")
        async with httpx.AsyncClient(transport=http, base_url="http://test/v1/tiny") as client:
            return await client.request(method, path, **options)

    async def story() -> None:
        await service.load(world.publish("1"))
        for path in ("/predict", "/outcomes"):
            refused = await ask("POST", path, json=BODY)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'Bearer realm="millrace"'
            assert "bearer token" in refused.json()["allowed"], "who has no key is told how, and redaction lets it pass"
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.json()["type"] == "urn:millrace:error:unknown-caller"
        for path in ("/health", "/ready", "/"):
            assert (await ask("GET", path)).status_code == 200
        answer = await ask("POST", "/predict", json=BODY, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        assert key not in answer.text

    asyncio.run(story())
    logged = b"".join(path.read_bytes() for path in world.log_folder.rglob("*") if path.is_file())
    service.close()
    assert b"authorization" not in logged
    assert key.encode() not in logged


def test_a_customer_has_one_limit_over_all_its_keys(keys: KeyFile) -> None:
    door = replace(Door.of(Settings(keys_file=keys.path)), clock=Clock())
    one, other, foreign = (keys.create(customer)[1] for customer in ("acme", "acme", "umbrella"))
    keys.limit("acme", Limit.of(0.001, 2))

    def ask(key: str) -> str:
        customer = door.check([HOME, bearer(key)])
        door.admit(customer)
        return customer

    assert [ask(key) for key in (one, other)] == ["acme", "acme"]
    with pytest.raises(TooManyRequestsError, match="acme asks too often") as refused:
        ask(one)
    assert 990 < refused.value.retry_after <= 1000
    assert ask(foreign) == "umbrella"
    keys.limit("acme", None)
    assert ask(one) == "acme", "a change needs no restart"
    door.allow(Limit.of(0.001, 4), quota=None)
    door.divide(replicas=4)
    with pytest.raises(TooManyRequestsError, match=r"0\.001 requests a second, 4 at once"):
        ask(other)


@pytest.mark.parametrize(
    ("limit", "held"),
    [(Limit.of(1000), True), (Limit.of(0.001, 1), True), (Limit.of(1000, 25), True), (Limit.of(1000, 24), False)],
)
def test_the_ingress_holds_only_whom_it_costs_nothing_of_the_rate(limit: Limit, held: bool, keys: KeyFile) -> None:
    door = replace(Door.of(Settings(keys_file=keys.path)), clock=lambda: 1.0)
    headers = [HOME, bearer(keys.create("acme")[1])]
    keys.limit("acme", limit)
    customer = door.check(headers)

    def ask_on() -> None:
        while True:
            door.admit(customer)

    with pytest.raises(TooManyRequestsError) as refused:
        ask_on()
    assert refused.value.can_be_held == held
    assert (refused.value.retry_after >= HOLD_SECONDS) == held
    assert ((HOLD, b"1") in problem(refused.value, "id").headers) == held


def test_ingress_and_replica_agree_for_how_long_a_customer_is_held() -> None:
    assert haproxy_config.HOLD_MS == HOLD_SECONDS * 1000


def test_a_refusal_says_when_to_ask_again_and_an_answer_is_the_customers(world: Any, keys: KeyFile) -> None:
    door = Door.of(Settings(keys_file=keys.path))
    service = PredictionService(world.pipeline, world.store, world.log_folder, door=door)
    _, key = keys.create("acme")
    keys.limit("acme", Limit.of(0.01, 1))

    async def ask() -> list[httpx.Response]:
        await service.load(world.publish("1"))
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            header = {"authorization": f"Bearer {key}"}
            return [await client.post("/predict", json=BODY, headers=header) for _ in range(2)]

    answered, refused = asyncio.run(ask())
    service.close()
    assert answered.status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "100")
    assert refused.json()["type"] == "urn:millrace:error:too-many-requests"
    log = read_answers(world.log_folder, world.pipeline.spec.data)
    assert log["customer"].tolist() == ["acme"]


class Counted:
    """What a replica is told to count."""

    def __init__(self) -> None:
        self.limited: list[tuple[str, int]] = []

    def count_limited(self, customer: str, count: int) -> None:
        self.limited.append((customer, count))

    def count(self, *_: object) -> None:
        """Tested elsewhere."""

    count_batch = count


def test_whom_the_ingress_has_refused_a_replica_counts(world: Any, keys: KeyFile) -> None:
    service = PredictionService(
        world.pipeline, world.store, world.log_folder, door=Door.of(Settings(keys_file=keys.path))
    )
    service._metrics = counted = Counted()
    key = keys.create("acme")[1]

    async def ask(told: str) -> int:
        headers = {"authorization": f"Bearer {key}", INGRESS_REFUSED.decode(): told}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(service), base_url="http://127.0.0.1:8000"
        ) as client:
            return (await client.post("/predict", json=BODY, headers=headers)).status_code

    async def story() -> list[int]:
        await service.load(world.publish("1"))
        return [await ask(told) for told in ("41", "-1", "x", "9999999", "")]

    assert asyncio.run(story()) == [200] * 5
    service.close()
    assert counted.limited == [("acme", 41)]


def test_a_limit_is_divided_by_the_replicas_that_run_and_until_they_are_known_by_the_fewest(
    world: Any, keys: KeyFile
) -> None:
    autoscaling = AutoscalingSpec(min_replicas=2, max_replicas=20)
    limit = CustomerLimitSpec(rate=0.001, burst=12)
    spec = world.pipeline.spec
    serving = spec.serving.model_copy(update={"autoscaling": autoscaling, "customer_limit": limit})
    target = world.publish("1", spec=spec.model_copy(update={"serving": serving}))
    headers = [HOME, bearer(keys.create("acme")[1])]

    def admitted(told_before: int | None, told_after: int | None) -> int:
        door = Door.of(Settings(keys_file=keys.path))
        service = PredictionService(world.pipeline, world.store, world.log_folder, door=door)
        if told_before is not None:
            service.divide(told_before)
        asyncio.run(service.load(target))
        if told_after is not None:
            service.divide(told_after)
        count = 0
        with contextlib.suppress(TooManyRequestsError):
            while count < 50:
                door.admit(door.check(headers))
                count += 1
        service.close()
        return count

    assert admitted(None, None) == 6
    assert admitted(None, 4) == 3
    assert admitted(4, None) == 3, "a version that is loaded later changes nothing"
    assert admitted(4, 1) == 12


def test_a_quota_counts_predictions_until_midnight_and_no_outcomes(world: Any, keys: KeyFile, tmp_path: Path) -> None:
    usage = Usage(tmp_path / "usage")
    door = Door.of(Settings(keys_file=keys.path), usage)
    service = PredictionService(world.pipeline, world.store, world.log_folder, door=door)
    _, key = keys.create("acme")
    keys.limit("acme", None, 3)

    async def ask(path: str, body: Any) -> httpx.Response:
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.post(path, json=body, headers={"authorization": f"Bearer {key}"})

    nothing: dict[str, Any] = {"rows": []}

    async def story() -> list[httpx.Response]:
        failed = [await ask("/predict", BODY) for _ in range(5)]
        assert {answer.status_code for answer in failed} == {503}, "no version is loaded: that costs nothing"
        await service.load(world.publish("1"))
        return [await ask("/predict", body) for body in (BODY, nothing, BODY, BODY)]

    before = day_of(time.time())
    answers = asyncio.run(story())
    *_, refused = answers
    if day_of(time.time()) != before:
        pytest.skip("it is midnight")
    assert [answer.status_code for answer in answers] == [200, 422, 200, 429], "what breaks the contract counts"
    assert refused.json()["rule"] == "quota"
    assert refused.json()["allowed"] == "3 requests a day (UTC)"
    left = 86_400 - time.time() % 86_400
    assert left - 1 <= int(refused.headers["retry-after"]) <= left + 60
    outcome = {"outcomes": [{"request_id": answers[0].json()["request_id"], "row": 0, "label": 1}]}
    assert asyncio.run(ask("/outcomes", outcome)).status_code == 202
    assert usage.used(before) == {"acme": 3}
    service.close()


def test_the_quota_of_the_spec_is_for_who_has_none_and_is_given_back_at_the_end(
    world: Any, keys: KeyFile, tmp_path: Path
) -> None:
    usage = Usage(tmp_path / "usage")
    spec = world.pipeline.spec
    spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"customer_quota": 1000})})
    acme, umbrella = (keys.create(name)[1] for name in ("acme", "umbrella"))
    keys.limit("umbrella", None, 1)

    def replica() -> list[int]:
        door = Door.of(Settings(keys_file=keys.path), usage)
        service = PredictionService(world.pipeline, world.store, world.log_folder, door=door)

        async def story() -> list[int]:
            await service.load(world.publish("1", spec=spec))
            transport = httpx.ASGITransport(service)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                headers = [{"authorization": f"Bearer {key}"} for key in (acme, acme, acme, umbrella, umbrella)]
                return [(await client.post("/predict", json=BODY, headers=each)).status_code for each in headers]

        found = asyncio.run(story())
        service.close()
        return found

    before = day_of(time.time())
    assert replica() == [200, 200, 200, 200, 429]
    assert usage.used(before) == {"acme": 3, "umbrella": 1}
    assert replica() == [200, 200, 200, 429, 429], "the next process knows"
    if day_of(time.time()) == before:
        assert usage.used(before) == {"acme": 6, "umbrella": 1}


def test_what_is_about_all_customers_is_for_who_runs_the_service(world: Any, keys: KeyFile, tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    door = replace(Door.of(Settings(keys_file=keys.path)), clock=Clock())
    service = PredictionService(world.pipeline, world.store, world.log_folder, door=door, metrics_folder=folder)

    async def ask(**headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(service)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            await client.post("/predict", json=BODY, headers=headers)
            return await client.get("/metrics", headers=headers)

    assert asyncio.run(ask()).status_code == 200, "on loopback, while there are no keys"
    customer, operator = (keys.create(name)[1] for name in ("acme", "metrics"))
    assert asyncio.run(ask()).status_code == 401
    refused = asyncio.run(ask(authorization=f"Bearer {customer}"))
    assert (refused.status_code, refused.json()["allowed"]) == (403, "a key of local or metrics")
    answer = asyncio.run(ask(authorization=f"Bearer {operator}"))
    service.close()
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for customer in ("acme", "metrics"):
        assert f'customer="{customer}",outcome="failed",pipeline="tiny"' in answer.text, "no version is loaded"
