"""Every route and every error of the prediction service, in this process and without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from millrace import inference_log
from millrace.errors import ArtifactError, DigestError, PackageError
from ray_jobs.serve.service import PredictionService
from tests.unit.ray_jobs.serve.asking import Ask, asking

ROW = {"delay": 1.5, "carrier": "UA"}


def run(work: Awaitable[None]) -> None:
    async def wait() -> None:
        await work

    asyncio.run(wait())


def test_before_a_version_is_loaded_it_is_alive_but_not_ready(ask: Ask) -> None:
    assert ask("GET", "/health").status_code == 200
    for method, path in (("GET", "/ready"), ("POST", "/predict"), ("POST", "/outcomes"), ("GET", "/")):
        answer = ask(method, path)
        assert answer.status_code == 503, path
        assert answer.headers["content-type"] == "application/problem+json"
        assert "no version is loaded" in answer.json()["detail"]


def test_a_prediction_is_answered_and_logged(service: PredictionService, ask: Ask, world: Any) -> None:
    target = world.publish("1")
    run(service.load(target))
    assert ask("GET", "/ready").json() == {"status": "ready", "version": "1"}
    answer = ask("POST", "/predict", json={"rows": [ROW, ROW | {"carrier": "AA"}]}, headers={"x-request-id": "me.1"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "me.1"
    document = answer.json()
    assert (document["request_id"], document["version"]) == ("me.1", "1")
    probabilities = [prediction["probability"] for prediction in document["predictions"]]
    assert all(0 < value < 1 for value in probabilities)
    rows = inference_log.read_answers(world.log_folder, world.pipeline.spec.data)
    assert rows["prediction"].tolist() == probabilities
    assert rows["carrier"].tolist() == ["UA", "AA"]
    assert set(rows["request_id"]) == {"me.1"}
    assert (rows["seconds"] > 0).all()


def test_outcomes_are_accepted_and_join_their_answers(service: PredictionService, ask: Ask, world: Any) -> None:
    run(service.load(world.publish("1")))
    request_id = ask("POST", "/predict", json={"rows": [ROW]}).headers["x-request-id"]
    answer = ask("POST", "/outcomes", json={"outcomes": [{"request_id": request_id, "label": 1}]})
    assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    assert inference_log.read_joined(world.log_folder, world.pipeline.spec.data)["label"].tolist() == [1.0]


def test_it_describes_itself(service: PredictionService, ask: Ask, world: Any) -> None:
    target = world.publish("1")
    run(service.load(target))
    document = ask("GET", "/").json()
    assert (document["pipeline"], document["version"]) == ("tiny", "1")
    assert document["package_digest"] == target.package_digest
    assert document["contract"]["features"]["carrier"]["values"] == ["AA", "UA"]


@pytest.mark.parametrize(
    ("label", "shape"),
    [
        ({"kind": "multiclass", "classes": ["no", "yes"]}, {"class", "probabilities"}),
        ({"kind": "regression"}, {"value"}),
    ],
)
def test_each_kind_of_label_has_its_answer(
    make_world: Callable[..., Any], label: dict[str, Any], shape: set[str]
) -> None:
    world = make_world(**label)
    service = PredictionService(world.pipeline, world.store, world.log_folder)
    run(service.load(world.publish("1")))
    prediction = asking(service)("POST", "/predict", json={"rows": [ROW]}).json()["predictions"][0]
    logged = inference_log.read_answers(world.log_folder, world.pipeline.spec.data).iloc[0]
    service.close()
    assert set(prediction) == shape
    if label["kind"] == "multiclass":
        assert sum(prediction["probabilities"].values()) == pytest.approx(1)
        assert prediction["class"] == max(prediction["probabilities"], key=prediction["probabilities"].get)
        assert logged["probability_yes"] == prediction["probabilities"]["yes"]
        assert logged["prediction"] == prediction["class"]
    else:
        assert logged["prediction"] == prediction["value"]


PATHS = "/predict, /outcomes, /health, /ready, /metrics, /openapi.json, /, /v2"


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "expected"),
    [
        (
            "GET",
            "/nothing",
            {},
            404,
            {"allowed": "/predict, /outcomes, /health, /ready, /metrics, /openapi.json, /, /v2"},
        ),
        ("GET", "/predict", {}, 405, {"allowed": "POST"}),
        ("POST", "/health", {}, 405, {"allowed": "GET"}),
        ("POST", "/predict", {"content": b"{"}, 422, {"rule": "JSON"}),
        (
            "POST",
            "/predict",
            {"json": {"rows": [ROW, ROW | {"delay": 101}]}},
            422,
            {"field": "/rows/1/delay", "rule": "max"},
        ),
        ("POST", "/predict", {"json": {"rows": [ROW] * 4}}, 413, {"rule": "serving.max_rows"}),
        ("POST", "/predict", {"content": b" " * 1025}, 413, {"rule": "serving.max_body_bytes"}),
        ("POST", "/outcomes", {"json": {"outcomes": [{"request_id": "a"}]}}, 422, {"field": "/outcomes/0/label"}),
        ("GET", "/health", {"headers": {"x-request-id": "a b"}}, 422, {"field": "x-request-id"}),
        ("GET", "/health", {"headers": {"x-request-id": "a" * 129}}, 422, {"field": "x-request-id"}),
    ],
)
def test_a_refusal_is_a_problem_document(
    service: PredictionService,
    ask: Ask,
    world: Any,
    method: str,
    path: str,
    options: dict[str, Any],
    status: int,
    expected: dict[str, str],
) -> None:
    run(service.load(world.publish("1")))
    answer = ask(method, path, **options)
    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail", "request_id"} <= set(problem)
    assert {name: problem.get(name) for name in expected} == expected
    assert problem["request_id"] == answer.headers["x-request-id"]
    if status == 405:
        assert answer.headers["allow"] == expected["allowed"]


def test_a_body_without_a_length_is_bounded_too(service: PredictionService, ask: Ask, world: Any) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 100

    run(service.load(world.publish("1")))
    assert ask("POST", "/predict", content=endless()).status_code == 413


@pytest.mark.parametrize("answers", [RuntimeError("secret path /etc"), np.asarray([np.nan], np.float32)])
def test_a_failure_inside_shows_nothing_and_is_logged_with_its_request(
    service: PredictionService,
    ask: Ask,
    world: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answers: Any,
) -> None:
    run(service.load(world.publish("1")))

    def predict(batch: Any) -> Any:
        if isinstance(answers, Exception):
            raise answers
        return answers

    assert service._serving is not None
    monkeypatch.setattr(service._serving.version.batcher, "execute", predict)
    answer = ask("POST", "/predict", json={"rows": [ROW]}, headers={"x-request-id": "me.2"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    assert "me.2" in caplog.text
    (failure,) = inference_log.read_failures(world.log_folder).to_dict("records")
    assert (failure["request_id"], failure["version"], failure["status"]) == ("me.2", "1", 500)
    assert failure["error"] == ("RuntimeError" if isinstance(answers, Exception) else "PackageError")


def test_what_the_caller_did_wrong_is_no_failure(service: PredictionService, ask: Ask, world: Any) -> None:
    ask("GET", "/ready")
    run(service.load(world.publish("1")))
    assert ask("POST", "/predict", json={"rows": [{"delay": "late"}]}).status_code == 422
    assert ask("GET", "/nowhere").status_code == 404
    assert inference_log.read_failures(world.log_folder).empty


def test_a_failure_that_cannot_be_logged_is_answered_all_the_same(
    service: PredictionService, ask: Ask, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(service.load(world.publish("1")))
    assert service._serving is not None
    monkeypatch.setattr(service._serving.version.batcher, "execute", lambda _: 1 / 0)
    service._failures.close()
    assert ask("POST", "/predict", json={"rows": [ROW]}).status_code == 500


def test_an_answer_that_cannot_be_logged_is_not_given(service: PredictionService, ask: Ask, world: Any) -> None:
    run(service.load(world.publish("1")))
    assert service._serving is not None
    service._serving.answers.close()
    assert ask("POST", "/predict", json={"rows": [ROW]}).status_code == 503


def test_a_new_version_replaces_the_old(service: PredictionService, ask: Ask, world: Any) -> None:
    first, second = world.publish("1"), world.publish("2")
    run(service.load(first))
    run(service.prepare(second))
    assert ask("GET", "/ready").json()["version"] == "1"
    run(service.load(second))
    assert service.target == second
    assert ask("POST", "/predict", json={"rows": [ROW]}).json()["version"] == "2"


def test_a_version_that_cannot_be_loaded_leaves_the_old(service: PredictionService, ask: Ask, world: Any) -> None:
    good = world.publish("1")
    run(service.load(good))
    for bad, error in (
        (world.publish("2", broken=True), PackageError),
        (replace(good, version="3", package_digest="0" * 64), DigestError),
        (replace(good, version="4", package_key="packages/none"), ArtifactError),
    ):
        with pytest.raises(error):
            run(service.load(bad))
        assert ask("POST", "/predict", json={"rows": [ROW]}).json()["version"] == "1"


def test_a_restart_recovers_the_log_of_a_killed_replica(world: Any) -> None:
    # Two services at once: the living one's segment must be left alone by the other's start.
    first = PredictionService(world.pipeline, world.store, world.log_folder)
    run(first.load(world.publish("1")))
    asking(first)("POST", "/predict", json={"rows": [ROW]})
    second = PredictionService(world.pipeline, world.store, world.log_folder)
    assert len(list((world.log_folder / "answers").glob("*.jsonl"))) == 1
    first.close()
    second.close()
    assert len(inference_log.read_answers(world.log_folder, world.pipeline.spec.data)) == 1


def test_a_damaged_segment_does_not_keep_the_service_from_starting(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = world.log_folder / "answers"
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_bytes(b"nonsense\n")
    service = PredictionService(world.pipeline, world.store, world.log_folder)
    run(service.load(world.publish("1")))
    assert asking(service)("POST", "/predict", json={"rows": [ROW]}).status_code == 200
    service.close()
    assert "x.jsonl" in caplog.text
