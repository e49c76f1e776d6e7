"""Whatever a table holds, pipeline.yaml reads back as it was meant."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from millrace.scaffold.columns import Column, bounds
from millrace.scaffold.infer import infer
from millrace.scaffold.render import number, quoted, render, scalar
from millrace.spec.load import parse_spec
from millrace.table_source import TableSource

pytestmark = pytest.mark.unit

# Text a UTF-8 file may hold: everything but halves of surrogate pairs.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
yaml_words = [
    "yes",
    "no",
    "on",
    "1",
    "1e3",
    "null",
    "~",
    "=",
    "2024-01-01",
    "key: value",
    "# no",
    "- a",
    "{a",
    "[",
    "%",
]
marks = [
    "'",
    '"',
    "\\",
    "a\nb",
    "a\tb",
    " lead",
    "trail ",
    "$name",
    "${name}",
    "\x00",
    "\x85",
    "\u2028",
    "\ufeff",
    "😀",
]
nasty = st.sampled_from([*yaml_words, *marks, "%", "😀", "x" * 300])
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(nasty | texts)
def test_texts_read_back(text: str) -> None:
    document = yaml.safe_load(f"{scalar(text)}: [{quoted(text)}, x]  # {quoted(text)}\nafter: 1\n")
    assert document == {text: [text, "x"], "after": 1}


@given(finite)
@example(1e20)
@example(1e-7)
def test_numbers_read_back(value: float) -> None:
    read = yaml.safe_load(number(value))
    assert isinstance(read, int | float)
    assert read == value


@given(finite, finite)
def test_bounds_hold_what_was_seen(one: float, other: float) -> None:
    low, high = min(one, other) / 4, max(one, other) / 4
    lower, upper = bounds(low, high)
    assert lower <= low <= high <= upper
    assert math.isfinite(lower)
    assert math.isfinite(upper)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(nasty | texts, min_size=2, max_size=30, unique=True), name=nasty | texts)
def test_a_whole_file_reads_back(values: list[str], name: str, tmp_path: Path) -> None:
    name = name if name not in ("time", "label") else f"{name}_"
    cells = (values * 600)[:600]
    table = pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=600, freq="6h"),
            "label": np.random.default_rng(0).random(600) < 0.5,
            "number": np.random.default_rng(1).random(600),
            name: cells,
        }
    )
    table.to_parquet(tmp_path / "table.parquet")
    source = TableSource(str(tmp_path / "table.parquet"), "time", "label")
    found = infer(source)

    text = render("nasty", source, {"table": source.url, "time": "time", "label": "label"}, found, 0.0)

    spec = parse_spec(yaml.safe_load(text))
    for column in found.features:
        feature = spec.data.features[column.name]
        assert feature.kind == column.kind
        if feature.kind == "categorical":
            assert tuple(feature.values) == column.values
    kept: list[Column] = [column for column in found.columns if column.name == name]
    assert len(kept) == 1
