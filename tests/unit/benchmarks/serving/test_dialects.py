"""The same rows in each dialect, and bodies of which no two are alike."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.dialects import RECORDS, ROWS, TENSORS, VARIED, Dialect
from benchmarks.serving.fixture import draw_row, make_fixture, reference_spec, shape_of
from millrace.requests import RequestContract
from millrace.spec import PipelineSpec, TableSpec

DIALECTS = pytest.mark.parametrize("dialect", [ROWS, RECORDS, TENSORS], ids=["rows", "records", "tensors"])


@cache
def shape() -> dict[str, Any]:
    document = reference_spec()
    return shape_of(TableSpec.model_validate(document["data"]), document["model"]["options"])


@DIALECTS
@given(number=st.integers(0, 10_000_000), other=st.integers(1, 4_999_999), seed=st.integers(0, 1000))
def test_bodies_differ_in_one_number_and_are_of_one_size(dialect: Dialect, number: int, other: int, seed: int) -> None:
    row = draw_row(shape(), random.Random(seed))
    template = dialect.template(shape(), row)
    body, another = template.body(number), template.body(number + other)
    assert body != another
    assert len(body) == len(another) == template.size
    varied = {**row, VARIED: round(1000 + number % 5_000_000 / 1000, 3)}
    assert json.loads(body) == json.loads(dialect.body(shape(), [varied]))


@given(seed=st.integers(0, 1000), number=st.integers(0, 10_000_000))
def test_what_is_asked_keeps_the_reference_contract(seed: int, number: int) -> None:
    contract = RequestContract(PipelineSpec.model_validate(reference_spec()))
    template = ROWS.template(shape(), draw_row(shape(), random.Random(seed)))
    assert contract.parse(template.body(number)).num_rows == 1


def test_tensors_are_row_by_row() -> None:
    rows = [draw_row(shape(), random.Random(seed)) for seed in (1, 2)]
    numeric, categorical = json.loads(TENSORS.body(shape(), rows))["inputs"]
    names = [feature["name"] for feature in shape()["numeric"]]
    assert numeric["shape"] == [2, len(names)]
    assert numeric["data"][: len(names)] == [rows[0][name] for name in names]
    assert categorical["datatype"] == "BYTES"
    assert len(categorical["data"]) == 2 * len(shape()["categorical"])


def test_answers_are_read_from_each_dialect() -> None:
    assert ROWS.decode({"predictions": [{"probability": 0.25}]}) == [0.25]
    assert RECORDS.decode({"predictions": [0.25, 0.5]}) == [0.25, 0.5]
    assert TENSORS.decode({"outputs": [{"name": "probability", "shape": [1, 1], "data": [0.25]}]}) == [0.25]


def test_the_peers_model_is_the_reference_pipelines(tmp_path: Any) -> None:
    import torch

    from millrace.encoding import TableInputs
    from millrace.package import LabelScale, Predictor
    from pipelines.flight_delays.model import build

    fixture = make_fixture(tmp_path, versions=2)
    spec = PipelineSpec.model_validate(reference_spec())
    module = build(TableInputs.shaped(spec.data), spec.model.options).eval()
    module.load_state_dict(fixture.model()._module.state_dict())
    batch = RequestContract(spec).parse(ROWS.body(fixture.shape, fixture.rows)).batch
    with torch.inference_mode():
        ours = Predictor(spec, module, LabelScale()).predict(batch)
    assert max(abs(one - other) for one, other in zip(ours.tolist(), fixture.answers, strict=True)) < 1e-6
    # Versions must be told apart, and rows too, or a wrong answer would pass for a right one.
    other = fixture.model(2).predict_rows(fixture.rows)
    assert min(abs(one - two) for one, two in zip(other, fixture.answers, strict=True)) > 1e-4
    assert len({round(answer, 4) for answer in fixture.answers}) > len(fixture.answers) // 2
