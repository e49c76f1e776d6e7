"""What the protocol tells about a server and its model, and the paths it is asked at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import __version__
from millrace.errors import UnknownNameError
from millrace.open_inference import (
    InferContract,
    Route,
    find_route,
    model_metadata,
    model_ready,
    require_served,
    server_live,
    server_metadata,
    server_ready,
    with_error,
)
from millrace.open_inference.paths import PATHS
from millrace.request_values import broken
from ray_jobs.serve.problems import problem
from tests.unit.millrace.open_inference import wire
from tests.unit.millrace.open_inference.specs import make_spec


def test_the_server_tells_its_extensions() -> None:
    assert server_metadata() == {"name": "millrace", "version": __version__, "extensions": ["binary_tensor_data"]}
    assert (server_live(), server_ready()) == ({"live": True}, {"ready": True})
    assert model_ready("tiny") == {"name": "tiny", "ready": True}


def test_the_model_tells_its_signature() -> None:
    document = model_metadata(make_spec("multiclass"), "3")
    assert (document["name"], document["versions"], document["platform"]) == ("tiny", ["3"], "pytorch_safetensors")
    assert document["inputs"] == [
        {"name": name, "datatype": datatype, "shape": [-1]}
        for name, datatype in {
            "delay": "FP64",
            "carrier": "BYTES",
            "wind": "FP64",
            "tail/no": "BYTES",
            "note": "BYTES",
            "grade": "BYTES",
            "departs": "BYTES",
            "flight": "BYTES",
        }.items()
    ]
    assert document["outputs"] == [
        {"name": "class", "datatype": "BYTES", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
    ]


def test_a_request_made_from_the_metadata_is_answered() -> None:
    spec = make_spec()
    cells: dict[str, Any] = {
        "delay": 1.0,
        "carrier": "AA",
        "wind": 2.0,
        "tail/no": "N1",
        "note": "ok",
        "grade": "a",
        "departs": "2024-01-02",
        "flight": "f1",
    }
    inputs = [
        wire.binary_input(tensor["name"], tensor["datatype"], [cells[tensor["name"]]])
        for tensor in model_metadata(spec, "3")["inputs"]
    ]
    found = InferContract(spec).decode(*wire.request(inputs)).rows
    assert found.columns == {name: [cells[name]] for name in spec.data.numeric + spec.data.categorical}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2", Route("server")),
        ("/v2/health/live", Route("server_live")),
        ("/v2/health/ready", Route("server_ready")),
        ("/v2/models/tiny", Route("model", "tiny")),
        ("/v2/models/tiny/ready", Route("model_ready", "tiny")),
        ("/v2/models/tiny/infer", Route("infer", "tiny")),
        ("/v2/models/tiny/versions/3", Route("model", "tiny", "3")),
        ("/v2/models/tiny/versions/3/ready", Route("model_ready", "tiny", "3")),
        ("/v2/models/tiny/versions/3/infer", Route("infer", "tiny", "3")),
        ("/v2/models/versions/versions/versions/infer", Route("infer", "versions", "versions")),
    ],
)
def test_paths(path: str, route: Route) -> None:
    assert find_route(path) == route
    assert route.method == ("POST" if path.endswith("/infer") else "GET")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/predict",
        "v2",
        "/v2/",
        "/v3",
        "/v2/models",
        "/v2/models/",
        "/v2/models//infer",
        "/v2/models/tiny/versions",
        "/v2/models/tiny/versions/",
        "/v2/models/tiny/versions//infer",
        "/v2/models/tiny/versions/3/config",
        "/v2/models/tiny/infer/3",
        "/v2/models/tiny/load",
        "/v2/health",
        "/v2/health/live/",
        "/V2/health/live",
        "//v2",
    ],
)
def test_other_paths_are_none_of_the_protocols(path: str) -> None:
    assert find_route(path) is None


@given(st.sampled_from(list(PATHS)), *(st.text(min_size=1).filter(lambda name: "/" not in name) for _ in range(2)))
def test_a_name_in_a_path_is_taken_as_it_is(template: str, model: str, version: str) -> None:
    path = "/".join({"{model}": model, "{version}": version}.get(part, part) for part in template.split("/"))
    route = find_route(path)
    assert route is not None
    assert route.operation == PATHS[template]
    assert route.model == (model if "{model}" in template else None)
    assert route.version == (version if "{version}" in template else None)


def test_only_the_model_and_version_that_answer_are_served() -> None:
    for route in (Route("server"), Route("infer", "tiny"), Route("infer", "tiny", "3")):
        require_served(route, "tiny", "3")
    for route, allowed in ((Route("infer", "tin"), "tiny"), (Route("model", "tiny", "2"), "3")):
        with pytest.raises(UnknownNameError) as caught:
            require_served(route, "tiny", "3")
        assert caught.value.allowed == allowed
        assert caught.value.http_status == 404


def test_errors_are_told_where_the_protocols_clients_look() -> None:
    error = broken("/inputs/0/data/1", "max", 7, "a number, at most 5", column="delay")
    document = json.loads(problem(error, "r.1").payload)
    assert document["status"] == 422
    told = with_error(document)
    assert told["error"] == (
        "/inputs/0/data/1 (delay) breaks the rule: max; got: 7; allowed: a number, at most 5; next: correct the request"
    )
    assert {name: told[name] for name in document} == document
    assert with_error(json.loads(problem(ValueError("secret"), "r.1").payload))["error"].startswith(
        "the service failed"
    )
