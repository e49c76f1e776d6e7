"""One encoding for training, evaluation and serving: a row's tensors depend on that row and the spec alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.encoding import TableInputs, categorical_array, encode, labels, numeric_array
from millrace.spec import PipelineSpec

COLOURS = ["red", "green", "blue"]
numbers = st.none() | st.floats(-1e6, 1e6, width=32)
colours = st.none() | st.sampled_from([*COLOURS, "violet", ""])
tables = st.lists(st.tuples(numbers, numbers, colours), min_size=1, max_size=12)


def frame(rows: list[tuple[float | None, float | None, str | None]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["size", "weight", "colour"], dtype=object)


@given(rows=tables, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_row_is_encoded_the_same_in_any_company(
    rows: list[Any], data: st.DataObject, make_spec: Callable[..., PipelineSpec]
) -> None:
    spec = make_spec().data
    whole = encode(frame(rows), spec)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = encode(frame([rows[position] for position in order]), spec)
    for name in ("numeric", "categorical"):
        np.testing.assert_array_equal(shuffled[name], whole[name][list(order)])
    for position, row in enumerate(rows):
        np.testing.assert_array_equal(encode(frame([row]), spec)["numeric"][0], whole["numeric"][position])
        np.testing.assert_array_equal(encode(frame([row]), spec)["categorical"][0], whole["categorical"][position])


@given(rows=tables)
@settings(max_examples=60, deadline=None)
def test_encoding_says_what_was_there(rows: list[Any], make_spec: Callable[..., PipelineSpec]) -> None:
    batch = encode(frame(rows), make_spec().data)
    assert (batch["numeric"].dtype, batch["categorical"].dtype) == (np.float32, np.int64)
    assert (batch["numeric"].shape, batch["categorical"].shape) == ((len(rows), 2), (len(rows), 1))
    for row, encoded, index in zip(rows, batch["numeric"], batch["categorical"][:, 0], strict=True):
        expected = [np.nan if value is None else value for value in row[:2]]
        np.testing.assert_array_equal(encoded, np.float32(expected))
        assert index == (COLOURS.index(row[2]) + 1 if row[2] in COLOURS else 0)


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_the_columns_type_does_not_change_a_category(dtype: str, make_spec: Callable[..., PipelineSpec]) -> None:
    rows = pd.DataFrame({"colour": pd.Series(["blue", None, "red", "violet"], dtype=dtype)})
    assert categorical_array(rows, make_spec().data)[:, 0].tolist() == [3, 0, 1, 0]


@pytest.mark.parametrize("dtype", ["float64", "Float64", "Int64", "object"])
def test_the_columns_type_does_not_change_a_number(dtype: str, make_spec: Callable[..., PipelineSpec]) -> None:
    rows = pd.DataFrame({"size": pd.Series([1, None], dtype=dtype), "weight": pd.Series([2, 3], dtype="int64")})
    np.testing.assert_array_equal(numeric_array(rows, make_spec().data), np.float32([[1, 2], [np.nan, 3]]))


def test_features_of_one_sort_only_leave_the_other_array_empty(make_spec: Callable[..., PipelineSpec]) -> None:
    only_colour = make_spec(change={"data.features": {"colour": {"kind": "categorical", "values": COLOURS}}}).data
    batch = encode(pd.DataFrame({"colour": ["red"]}), only_colour)
    assert (batch["numeric"].shape, batch["categorical"].tolist()) == ((1, 0), [[1]])
    only_size = make_spec(change={"data.features": {"size": {"kind": "numeric"}}}).data
    batch = encode(pd.DataFrame({"size": [2.0]}), only_size)
    assert (batch["numeric"].tolist(), batch["categorical"].shape) == ([[2.0]], (1, 0))


# Statistics


@given(
    values=st.lists(st.floats(-1e5, 1e5, width=32), min_size=1, max_size=30),
    missing=st.lists(st.booleans(), max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_statistics_are_those_of_the_values_that_are_there(
    values: list[float], missing: list[bool], make_spec: Callable[..., PipelineSpec]
) -> None:
    column = [*values, *([None] * len(missing))]
    rows = frame([(value, 0.0, "red") for value in column])
    inputs = TableInputs.fit(rows, make_spec().data)
    known = np.asarray(values, np.float32).astype(np.float64)
    assert inputs.means[0] == pytest.approx(known.mean(), rel=1e-9, abs=1e-9)
    assert inputs.stds[0] == pytest.approx(known.std() if known.std() > 1e-6 else 1.0, rel=1e-6)


def test_a_column_that_never_changes_or_never_is_there_is_scaled_by_one(
    make_spec: Callable[..., PipelineSpec],
) -> None:
    inputs = TableInputs.fit(frame([(7.0, None, "red"), (7.0, None, "red")]), make_spec().data)
    assert (inputs.means, inputs.stds) == ((7.0, 0.0), (1.0, 1.0))


def test_shapes_need_no_rows(make_spec: Callable[..., PipelineSpec], make_rows: Callable[..., pd.DataFrame]) -> None:
    data = make_spec("multiclass").data
    shaped, fitted = TableInputs.shaped(data), TableInputs.fit(make_rows("multiclass"), data)
    assert (shaped.numeric, shaped.categorical, shaped.cardinalities, shaped.outputs) == (
        fitted.numeric,
        fitted.categorical,
        fitted.cardinalities,
        fitted.outputs,
    )
    assert (shaped.cardinalities, shaped.outputs) == ((3,), 3)
    assert (len(shaped.means), len(shaped.stds)) == (2, 2)


# Labels


def test_binary_labels_are_0_and_1_and_unknown(make_spec: Callable[..., PipelineSpec]) -> None:
    rows = pd.DataFrame({"answer": [1.0, 0.0, np.nan]})
    np.testing.assert_array_equal(labels(rows, make_spec().data), np.float32([1, 0, np.nan]))


@pytest.mark.parametrize(
    ("positive", "column"),
    [
        ("yes", ["yes", "no", None]),
        ("1", [1, 0, None]),
        ("True", [True, False, None]),
    ],
)
def test_the_positive_value_counts_as_1(
    positive: str, column: list[Any], make_spec: Callable[..., PipelineSpec]
) -> None:
    data = make_spec(change={"data.label.positive": positive}).data
    rows = pd.DataFrame({"answer": pd.Series(column, dtype=object)})
    np.testing.assert_array_equal(labels(rows, data), np.float32([1, 0, np.nan]))


def test_a_class_is_its_index_and_any_other_value_is_unknown(make_spec: Callable[..., PipelineSpec]) -> None:
    rows = pd.DataFrame({"answer": ["high", "low", None, "other"]})
    found = labels(rows, make_spec("multiclass").data)
    np.testing.assert_array_equal(found, np.float32([2, 0, np.nan, np.nan]))
    assert found.dtype == np.float32


def test_a_value_is_itself(make_spec: Callable[..., PipelineSpec]) -> None:
    rows = pd.DataFrame({"answer": pd.Series([1.5, None, -2], dtype=object)})
    np.testing.assert_array_equal(labels(rows, make_spec("regression").data), np.float32([1.5, np.nan, -2]))
