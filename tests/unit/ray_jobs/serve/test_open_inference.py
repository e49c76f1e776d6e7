"""The service by the Open Inference Protocol: the same rows, answers and log as by its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from millrace.inference_log import read_answers
from ray_jobs.serve.service import PredictionService
from tests.unit.ray_jobs.serve.asking import Ask

ROWS = [{"delay": 1.5, "carrier": "UA"}, {"delay": -3.0, "carrier": "AA"}]
INPUTS = [
    {"name": "delay", "shape": [2], "datatype": "FP64", "data": [1.5, -3.0]},
    {"name": "carrier", "shape": [2, 1], "datatype": "BYTES", "data": ["UA", "AA"]},
]
INFER = "/v2/models/tiny/infer"


@pytest.fixture
def loaded(service: PredictionService, world: Any) -> PredictionService:
    asyncio.run(service.load(world.publish("7")))
    return service


def test_before_a_version_is_loaded_it_lives_and_is_not_ready(ask: Ask) -> None:
    assert ask("GET", "/v2").json()["extensions"] == ["binary_tensor_data"]
    assert ask("GET", "/v2/health/live").json() == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/ready"):
        refused = ask("GET", path)
        assert refused.status_code == 503
        assert "no version is loaded" in refused.json()["error"]
    assert ask("POST", INFER, json={"inputs": INPUTS}).status_code == 503


@pytest.mark.usefixtures("loaded")
def test_both_protocols_answer_and_log_the_same(ask: Ask, world: Any) -> None:
    own = ask("POST", "/predict", json={"rows": ROWS}, headers={"x-request-id": "own"}).json()
    answer = ask("POST", INFER, json={"id": "42", "inputs": INPUTS}, headers={"x-request-id": "v2"}).json()
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "7", "42")
    assert answer["parameters"]["request_id"] == "v2"
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probability", "FP32", [2])
    assert output["data"] == [row["probability"] for row in own["predictions"]]
    log = read_answers(world.log_folder, world.pipeline.spec.data)
    columns = ["row", "delay", "carrier", "prediction", "version"]
    one, other = (log[log["request_id"] == name][columns].reset_index(drop=True) for name in ("own", "v2"))
    assert len(one) == 2
    assert one.equals(other)


@pytest.mark.usefixtures("loaded")
def test_tensors_travel_in_binary(ask: Ask) -> None:
    numbers = np.array([1.5, -3.0]).astype("<f8").tobytes()
    texts = b"".join(len(text).to_bytes(4, "little") + text for text in (b"UA", b"AA"))
    inputs = [
        {"name": "delay", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": len(numbers)}},
        {"name": "carrier", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}},
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    answer = ask(
        "POST", INFER, content=head + numbers + texts, headers={"inference-header-content-length": str(len(head))}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    own = ask("POST", "/predict", json={"rows": ROWS}).json()["predictions"]
    expected = np.array([row["probability"] for row in own], "<f4")
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == expected.tolist()


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/models/tiny/versions/6/infer", 404),
        ("GET", "/v2/models/tiny/nothing", 404),
        ("GET", "/v2x", 404),
    ],
)
def test_what_is_not_there_is_a_problem(method: str, path: str, status: int, ask: Ask) -> None:
    refused = ask(method, path, **({"json": {"inputs": INPUTS}} if method == "POST" else {}))
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["error"].startswith(refused.json()["detail"])


@pytest.mark.usefixtures("loaded")
def test_a_bad_cell_is_named_in_both_members(ask: Ask) -> None:
    inputs = [INPUTS[0] | {"data": [1.5, 1e9]}, INPUTS[1]]
    refused = ask("POST", "/v2/models/tiny/versions/7/infer", json={"inputs": inputs})
    assert (refused.status_code, refused.json()["field"]) == (422, "/inputs/0/data/1")
    assert "allowed: " in refused.json()["error"]


@pytest.mark.usefixtures("loaded")
def test_it_describes_itself(ask: Ask) -> None:
    model = ask("GET", "/v2/models/tiny/versions/7").json()
    assert (model["name"], model["versions"]) == ("tiny", ["7"])
    assert {"delay", "carrier"} <= {tensor["name"] for tensor in model["inputs"]}
    described = ask("GET", "/openapi.json").json()
    assert described["info"]["version"] == "7"
    assert {"/predict", INFER.replace("tiny", "{model}"), "/metrics"} & set(described["paths"])
