"""Rows become samples, once, and with the statistics of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.encoding import Moments, encode, labels
from millrace.package import LabelScale
from millrace.shards import MappedShard, ShardWriter
from millrace.spec import PipelineSpec
from ray_jobs.train.table_problem import TARGET, table_columns, table_problem, write_table


@given(st.lists(st.lists(st.floats(-1e3, 1e3) | st.just(float("nan")), max_size=20), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_moments_of_parts_are_those_of_the_whole(parts: list[list[float]]) -> None:
    arrays = [np.array(part, np.float64)[:, None] for part in parts]
    total = Moments.of(np.zeros((0, 1)))
    for array in arrays:
        total = total + Moments.of(array)
    whole = Moments.of(np.concatenate(arrays))
    for name in ("count", "mean", "std"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_samples_hold_what_the_rows_say(
    kind: str, make_spec: Callable[..., PipelineSpec], make_rows: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    data, rows = make_spec(kind).data, make_rows(kind, 70)
    scale = LabelScale(3.0, 2.0) if kind == "regression" else LabelScale()
    with ShardWriter(tmp_path, table_columns(data), samples_per_shard=1000) as writer:
        write_table(writer, rows[:30], data, scale)
        write_table(writer, rows[30:], data, scale)
    (path,) = writer.files.values()
    columns = {name: torch.from_numpy(np.array(values)) for name, values in MappedShard(path).columns.items()}
    inputs, targets = table_problem(data, None, None, None).divide(columns)  # type: ignore[arg-type]
    expected = encode(rows, data)
    assert isinstance(inputs, dict)
    for name, tensor in inputs.items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name])
        assert tensor.numpy().dtype == expected[name].dtype
    np.testing.assert_allclose(targets.numpy() * scale.std + scale.mean, labels(rows, data), rtol=1e-6)
    assert columns[TARGET].dtype == torch.float32
