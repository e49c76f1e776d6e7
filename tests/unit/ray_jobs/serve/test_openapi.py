"""What the service really answers is what its OpenAPI document says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from millrace.openapi import document
from ray_jobs.serve.service import PredictionService
from tests.unit.ray_jobs.serve.asking import asking
from tests.unit.ray_jobs.serve.described import assert_described
from tests.unit.ray_jobs.serve.world import World

LABELS = {
    "binary": ({"kind": "binary"}, 1),
    "named": ({"kind": "binary", "positive": "late"}, "late"),
    "multiclass": ({"kind": "multiclass", "classes": ["no", "yes"]}, "yes"),
    "regression": ({"kind": "regression"}, 2.5),
}
ROW = {"delay": 1.5, "carrier": "UA"}
INFER: dict[str, Any] = {
    "id": "mine",
    "inputs": [
        {"name": "delay", "shape": [1], "datatype": "FP64", "data": [1.5]},
        {"name": "carrier", "shape": [1, 1], "datatype": "BYTES", "data": [["UA"]]},
    ],
}
MODEL = "/v2/models/tiny"
VERSION = f"{MODEL}/versions/{{version}}"


@pytest.mark.parametrize("label", list(LABELS))
def test_answers_and_problems_are_as_described(label: str, tmp_path: Path) -> None:
    world = World(tmp_path, LABELS[label][0])
    service = PredictionService(world.pipeline, world.store, world.log_folder)
    ask, described = asking(service), document(world.pipeline.spec, "1")
    outcome = {"request_id": "r.1", "label": LABELS[label][1]}
    requests: list[tuple[str, str, dict[str, Any], int]] = [
        ("GET", "/ready", {}, 503),
        ("POST", "/predict", {"json": {"rows": [ROW]}}, 503),
        ("GET", "/health", {}, 200),
        ("GET", "/health", {"headers": {"x-request-id": "a b"}}, 422),
        ("GET", "/ready", {}, 200),
        ("GET", "/", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("POST", "/predict", {"json": {"rows": [ROW, ROW]}}, 200),
        ("POST", "/predict", {"json": {"rows": [ROW | {"delay": 1e9}]}}, 422),
        ("POST", "/predict", {"json": {"rows": [ROW] * 4}}, 413),
        ("POST", "/predict", {"json": {"rows": [ROW]}, "headers": {"content-encoding": "gzip"}}, 415),
        ("POST", "/outcomes", {"json": {"outcomes": [outcome]}}, 202),
        ("POST", "/outcomes", {"json": {"outcomes": [outcome | {"row": -1}]}}, 422),
        ("GET", "/metrics", {}, 404),
        ("GET", "/v2", {}, 200),
        ("GET", "/v2/health/live", {}, 200),
        ("GET", "/v2/health/ready", {}, 200),
        *(("GET", path, {}, 200) for path in (MODEL, f"{MODEL}/ready", VERSION, f"{VERSION}/ready")),
        ("POST", f"{MODEL}/infer", {"json": INFER}, 200),
        ("POST", f"{VERSION}/infer", {"json": INFER}, 200),
        ("POST", f"{MODEL}/infer", {"json": INFER | {"inputs": []}}, 422),
        ("POST", f"{MODEL}/infer", {"json": {"inputs": [INFER["inputs"][0] | {"shape": [4]}]}}, 413),
        ("GET", VERSION, {"version": "2"}, 404),
        ("POST", f"{VERSION}/infer", {"version": "2", "json": INFER}, 404),
    ]
    for number, (method, path, options, status) in enumerate(requests):
        if number == 2:
            asyncio.run(service.load(world.publish("1")))
        version = options.pop("version", "1")
        answer = ask(method, path.replace("{version}", version), **options)
        assert answer.status_code == status, (method, path, options)
        assert_described(described, method, path, answer)
    service.close()
