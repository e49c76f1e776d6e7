"""The OpenAPI document: valid, whole, and of one mind with the contract about what is a request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import orjson
import pytest
from fastapi.openapi.models import OpenAPI
from hypothesis import given
from hypothesis import strategies as st

from millrace import errors
from millrace.errors import RequestError
from millrace.open_inference import InferContract
from millrace.open_inference.paths import PATHS
from millrace.openapi import document
from millrace.requests import RequestContract
from millrace.spec import PipelineSpec
from millrace.traces.context import new_traceparent
from tests.unit.fuzz.material import mutated
from tests.unit.millrace.open_inference import wire
from tests.unit.millrace.open_inference.specs import LABELS, make_spec

SPEC = make_spec(max_rows=3)
DOCUMENT = document(SPEC, "7")
ROW = {"delay": 1.5, "carrier": "UA", "wind": None, "tail/no": "N9", "note": "", "grade": "ü"}
INPUTS = [
    wire.json_input("delay", "FP64", [1.5, 2]),
    wire.json_input("carrier", "BYTES", [["UA"], ["AA"]], shape=[2, 1]),
    wire.json_input("wind", "INT32", [None, 7]),
    wire.json_input("tail/no", "BYTES", ["N9", None]),
    wire.json_input("note", "BYTES", ["", "x"]),
]


def validator(name: str, described: dict[str, Any] = DOCUMENT) -> jsonschema.Draft202012Validator:
    """Of one of the document's schemas."""
    return jsonschema.Draft202012Validator({**described, "$ref": f"#/components/schemas/{name}"})


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from nodes(child)


def operations(described: dict[str, Any] = DOCUMENT) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method in ("get", "post"):
            if method in item:
                yield path, method, item[method]


@pytest.mark.parametrize("label", list(LABELS))
def test_it_is_a_valid_document(label: str) -> None:
    found = document(make_spec(label), "7")
    assert found["openapi"] == "3.1.0"
    assert json.loads(json.dumps(found)) == found
    OpenAPI.model_validate(found)
    for schema in found["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for node in nodes(found):
        if isinstance(node.get("$ref"), str):
            target: Any = found
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
    names = [operation["operationId"] for _, _, operation in operations(found)]
    assert len(names) == len(set(names))


def test_all_that_is_described_is_used() -> None:
    used = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node.get("$ref"), str)}
    for kind in ("schemas", "responses", "parameters", "headers"):
        assert {f"#/components/{kind}/{name}" for name in DOCUMENT["components"][kind]} <= used


def test_it_has_every_path_of_the_service() -> None:
    v2 = {template.replace("{model}", "tiny") for template in PATHS}
    own = {"/predict", "/outcomes", "/health", "/ready", "/metrics", "/", "/openapi.json"}
    assert set(DOCUMENT["paths"]) == own | v2
    for path, method, operation in operations():
        named = {name for name in ("version",) if f"{{{name}}}" in path}
        assert {p["name"] for p in DOCUMENT["paths"][path].get("parameters", [])} == named
        assert (method == "post") == path.endswith(("/predict", "/outcomes", "/infer"))
        assert ("security" in operation) == (method == "post" or path == "/metrics")
    assert DOCUMENT["servers"] == [{"url": "/v1/tiny"}]
    assert DOCUMENT["info"]["version"] == "7"


def test_predictions_are_traced_and_nothing_else() -> None:
    for path, _, operation in operations():
        taken = {parameter["$ref"].rpartition("/")[2] for parameter in operation["parameters"]}
        is_traced = {"TraceParent", "TraceState"} <= taken
        assert is_traced == ("traceparent" in operation["responses"].get("200", {}).get("headers", {}))
        assert is_traced == path.endswith(("/predict", "/infer"))
    header = DOCUMENT["components"]["headers"]["TraceParent"]["schema"]
    for sent in (new_traceparent().decode(), *header["examples"]):
        assert jsonschema.Draft202012Validator(header).is_valid(sent)
    assert not jsonschema.Draft202012Validator(header).is_valid("00-1-2-01")


def test_problems_have_the_statuses_of_their_errors() -> None:
    statuses = {
        error.http_status
        for error in (
            errors.UnknownCallerError,
            errors.ForeignRequestError,
            errors.UnknownNameError,
            errors.RequestTooLargeError,
            errors.ContentEncodingError,
            errors.RequestError,
            errors.TooManyRequestsError,
            errors.ServiceError,
            errors.PackageError,
        )
    }
    told = {int(status) for _, _, operation in operations() for status in operation["responses"]}
    assert told == statuses | {200, 202}
    assert set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["status"]["enum"]) == statuses | {405}


def is_row(row: Any) -> bool:
    try:
        RequestContract(SPEC).parse(orjson.dumps({"rows": [row]}))
    except RequestError:
        return False
    return True


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "delay": st.sampled_from([None, -11, -10, 1e6, 1000001, True, "1", 3.5e38]),
            "carrier": st.sampled_from([None, "AA", "AB", "", 3, ["AA"]]),
            "wind": st.sampled_from([None, 0, -3.5e38, 3.4e38, False, "x", {}]),
            "tail/no": st.sampled_from([None, "N1", "N9", "", 3, True]),
            "note": st.sampled_from([None, "ok", "", "x", 1.5]),
            "grade": st.sampled_from([None, "", "a", "b", 0]),
            "departs": st.sampled_from([None, "2024-01-02T03:04:05Z", 3, True, []]),
            "flight": st.sampled_from([None, "f", 7, "x" * 256, "x" * 257, 1.5, True]),
            "more": st.none(),
        },
    )
)
def test_schema_and_contract_agree_about_rows(row: dict[str, Any]) -> None:
    row = {"delay": 1, "carrier": "AA", "note": "x"} | row
    assert validator("PredictRequest").is_valid({"rows": [row]}) == is_row(row)


def test_schema_and_contract_agree_about_what_is_required() -> None:
    for name in ROW:
        row = {key: value for key, value in ROW.items() if key != name}
        assert validator("PredictRequest").is_valid({"rows": [row]}) == is_row(row)
    for rows, good in (([], False), ([ROW] * 3, True), ([ROW] * 4, False)):
        assert validator("PredictRequest").is_valid({"rows": rows}) is good


@given(mutated({"rows": [ROW]}, most=2))
def test_the_schema_refuses_nothing_that_the_contract_takes(body: Any) -> None:
    try:
        RequestContract(SPEC).parse(json.dumps(body).encode())
    except RequestError:
        return
    assert validator("PredictRequest").is_valid(body)


@pytest.mark.parametrize("label", list(LABELS))
@pytest.mark.parametrize("value", [0, 1, 0.5, 2, True, "no", "late", "Größe", "other", None, 1e39, -1e30])
def test_schema_and_contract_agree_about_outcomes(label: str, value: Any) -> None:
    spec = make_spec(label)
    body = {"outcomes": [{"request_id": "r.1", "label": value, "row": 3}]}
    try:
        good = bool(RequestContract(spec).parse_outcomes(orjson.dumps(body)).rows)
    except RequestError:
        good = False
    assert validator("OutcomesRequest", document(spec, "7")).is_valid(body) == good


def test_outcomes_are_bounded() -> None:
    good = {"request_id": "r.1", "label": 1}
    for change in ({"request_id": "a b"}, {"row": -1}, {"row": 2**31}, {"row": 0.5}, {"known_at": 3}, {"when": 1}):
        assert not validator("OutcomesRequest").is_valid({"outcomes": [good | change]})
    assert validator("OutcomesRequest").is_valid({"outcomes": [good | {"row": 2**31 - 1, "known_at": None}]})


def is_inference(body: Any, spec: PipelineSpec = SPEC) -> bool:
    try:
        InferContract(spec).decode(json.dumps(body).encode())
    except RequestError:
        return False
    return True


@given(mutated({"inputs": INPUTS, "outputs": [{"name": "probability"}], "id": "7"}, most=2))
def test_the_schema_refuses_no_inference_request_that_the_contract_takes(body: Any) -> None:
    if is_inference(body):
        assert validator("InferRequest").is_valid(body)


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True),
        ({"id": None, "outputs": None, "parameters": {"binary_data_output": False, "priority": 3}}, True),
        ({"inputs": [*INPUTS, wire.json_input("departs", "INT64", [7, None])]}, True),
        ({"inputs": [*INPUTS, wire.json_input("grade", "BYTES", ["", None])]}, True),
        ({"inputs": INPUTS[1:]}, False),
        ({"inputs": [*INPUTS, INPUTS[2]]}, False),
        ({"inputs": [*INPUTS, wire.json_input("more", "BYTES", ["a", "b"])]}, False),
        ({"inputs": [INPUTS[0] | {"datatype": "BYTES"}, *INPUTS[1:]]}, False),
        ({"inputs": [INPUTS[0] | {"datatype": "FP16"}, *INPUTS[1:]]}, False),
        ({"inputs": [INPUTS[0] | {"data": [1.5, -11]}, *INPUTS[1:]]}, False),
        ({"inputs": [INPUTS[0] | {"shape": [2, 2]}, *INPUTS[1:]]}, False),
        ({"inputs": [INPUTS[0] | {"shape": [4]}, *INPUTS[1:]]}, False),
        ({"inputs": [INPUTS[0] | {"more": 1}, *INPUTS[1:]]}, False),
        ({"outputs": [{"name": "value"}]}, False),
        ({"id": "x" * 257}, False),
        ({"model_name": "other"}, False),
        ({"more": 1}, False),
    ],
)
def test_schema_and_contract_agree_about_inference_requests(change: dict[str, Any], good: bool) -> None:
    body = {"inputs": INPUTS, **change}
    assert validator("InferRequest").is_valid(body) is good
    assert is_inference(body) is good


def test_an_empty_text_may_stand_for_a_missing_category() -> None:
    spec = make_spec(features={"grade": {"kind": "categorical", "values": ["a"], "nullable": True}})
    for cell, good in (("", True), (None, True), ("a", True), ("b", False)):
        body = {"inputs": [wire.json_input("grade", "BYTES", [cell])]}
        assert is_inference(body, spec) is good
        assert validator("InferRequest", document(spec, "7")).is_valid(body) is good
