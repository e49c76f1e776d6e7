"""Answers as output tensors: a client reads back what the model answered, in JSON and in binary data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.open_inference import AnswerEncoder, InferContract, InferRequest, RequestedOutput, model_metadata
from tests.unit.millrace.open_inference import wire
from tests.unit.millrace.open_inference.specs import LABELS, make_spec

FEATURES = {"delay": {"kind": "numeric"}}
CLASSES = LABELS["multiclass"]["classes"]
answers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=5)


def asked(label: str, num_rows: int, outputs: list[Any] | None = None, **members: Any) -> InferRequest:
    """A request of `num_rows` rows that asks for `outputs`, pairs of a name and whether binary; None: all."""
    if outputs is not None:
        members["outputs"] = [{"name": name, "parameters": {"binary_data": binary}} for name, binary in outputs]
    inputs = [wire.json_input("delay", "FP64", [1.0] * num_rows)]
    return InferContract(make_spec(label, FEATURES)).decode(*wire.request(inputs, **members))


def told(label: str, request: InferRequest, prediction: list[Any], probabilities: Any = None) -> Any:
    found = AnswerEncoder(make_spec(label, FEATURES)).encode(
        request, version="3", request_id="r.1", prediction=prediction, probabilities=probabilities
    )
    headers = dict(found.headers)
    binary = found.json_length is not None
    assert headers[b"content-type"] == (b"application/octet-stream" if binary else b"application/json")
    assert (b"inference-header-content-length" in headers) == binary
    return wire.response(found.body, headers)


@pytest.mark.parametrize(
    ("label", "name"), [("binary", "probability"), ("named", "probability"), ("regression", "value")]
)
@given(prediction=answers, binary=st.booleans())
def test_one_answer_a_row(label: str, name: str, prediction: list[float], binary: bool) -> None:
    document, outputs = told(label, asked(label, len(prediction), [(name, binary)]), prediction)
    assert outputs == {name: prediction}
    assert document["outputs"][0]["shape"] == [len(prediction)]
    assert document["outputs"][0]["datatype"] == "FP32"
    assert "data" in document["outputs"][0] or binary


@given(
    rows=st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    binary=st.tuples(st.booleans(), st.booleans()),
    reverse=st.booleans(),
)
def test_classes_and_their_probabilities(rows: list[list[float]], binary: tuple[bool, bool], reverse: bool) -> None:
    best = [CLASSES[int(np.argmax(row))] for row in rows]
    columns = dict(zip(CLASSES, map(list, zip(*rows, strict=True)), strict=True))
    wanted = [("class", binary[0]), ("probabilities", binary[1])]
    request = asked("multiclass", len(rows), wanted[::-1] if reverse else wanted)
    document, outputs = told("multiclass", request, best, columns)
    assert outputs == {"class": best, "probabilities": [cell for row in rows for cell in row]}
    shapes = {output["name"]: output["shape"] for output in document["outputs"]}
    assert shapes == {"class": [len(rows)], "probabilities": [len(rows), 3]}
    assert list(shapes) == [name for name, _ in (wanted[::-1] if reverse else wanted)]


def test_the_answer_says_who_answered_and_how_outcomes_are_reported() -> None:
    document, _ = told("binary", asked("binary", 1, id="mine \u2713"), [0.5])
    assert document["id"] == "mine \u2713"
    assert (document["model_name"], document["model_version"]) == ("tiny", "3")
    assert document["parameters"] == {"request_id": "r.1"}
    assert "id" not in told("binary", asked("binary", 1), [0.5])[0]


def test_only_what_is_asked_for_is_answered() -> None:
    columns = dict(zip(CLASSES, ([0.5], [0.25], [0.25]), strict=True))
    _, outputs = told("multiclass", asked("multiclass", 1, [("class", True)]), ["no"], columns)
    assert outputs == {"class": ["no"]}
    every = asked("multiclass", 1, parameters={"binary_data_output": True})
    assert every.outputs == (RequestedOutput("class", True), RequestedOutput("probabilities", True))
    document, outputs = told("multiclass", every, ["Größe"], columns)
    assert outputs == {"class": ["Größe"], "probabilities": [0.5, 0.25, 0.25]}
    assert all("data" not in output for output in document["outputs"])


@pytest.mark.parametrize("label", list(LABELS))
def test_answers_are_as_metadata_says(label: str) -> None:
    spec = make_spec(label, FEATURES)
    kind = spec.data.label.kind
    columns = {name: [0.25, 0.75] for name in CLASSES} if kind == "multiclass" else None
    prediction = ["no", "yes"] if kind == "multiclass" else [0.25, 0.75]
    document, _ = told(label, asked(label, 2), prediction, columns)
    expected = model_metadata(spec, "3")["outputs"]
    assert [(o["name"], o["datatype"]) for o in document["outputs"]] == [(o["name"], o["datatype"]) for o in expected]
    for output, declared in zip(document["outputs"], expected, strict=True):
        assert [2 if size == -1 else size for size in declared["shape"]] == output["shape"]
