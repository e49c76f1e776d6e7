"""Single columns, leaks and plans."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from millrace.scaffold.columns import MAX_VALUES, infer_column
from millrace.scaffold.labels import infer_label
from millrace.scaffold.leaks import leak
from millrace.scaffold.plan import choose_period, make_plan

pytestmark = pytest.mark.unit
rng = np.random.default_rng(0)


def series(values: object, name: str = "x") -> pd.Series:
    return pd.Series(values, name=name)


@pytest.mark.parametrize(
    ("values", "kind", "positive"),
    [
        ([0, 1] * 10, "binary", None),
        ([1, 2] * 5 + [1], "binary", "1"),
        (["late", "on time"] * 5, "binary", "late"),
        (["true", "false"] * 5, "binary", "true"),
        (["a", "a", "b"] * 5, "binary", "b"),
        (["a", "b", "c"] * 5, "multiclass", None),
        ([1, 2, 3, None] * 5, "multiclass", None),
        (list(range(100)), "regression", None),
        ([0.5, 1.5, 2.5] * 5, "regression", None),
    ],
)
def test_label_kinds(values: list[object], kind: str, positive: str | None) -> None:
    column = series(values) if isinstance(values[0], str | float) else series(values).astype("Int64")
    plan = infer_label(column)
    assert (plan.kind, plan.positive) == (kind, positive)


def test_long_lists_are_cut_and_open() -> None:
    column = infer_column(series([f"v{value}" for value in range(300)] * 10))
    assert column.open
    assert len(column.values) == MAX_VALUES


def test_closed_lists_are_sorted_by_frequency() -> None:
    column = infer_column(series(["b", "a", "b", "c", "a", "b"] * 100))
    assert column.values == ("b", "a", "c")
    assert not column.open


def test_values_that_come_late_open_the_list() -> None:
    assert infer_column(series(["a", "b"] * 450 + ["c"] * 100)).open


@pytest.mark.parametrize(
    ("values", "name", "why"),
    [
        ([None] * 50, "x", "empty"),
        (["a"] * 50, "x", "every row"),
        (list(range(1000, 1050)), "x", "numbers the rows"),
        (rng.permutation(10**6)[:50].tolist(), "user_id", "numbers the rows"),
        ([f"name {value}" for value in range(50)], "x", "id or free text"),
        (["2024-01-02", "2024-01-03"] * 25, "x", "date"),
        ([[1], [2]] * 25, "x", "single values"),
        ([float("inf"), float("-inf")] * 25, "x", "finite"),
    ],
)
def test_columns_left_out_say_why(values: list[object], name: str, why: str) -> None:
    column = infer_column(series(values, name))
    assert not column.is_feature
    assert why in column.note


def test_codes_with_leading_zeros_are_categories() -> None:
    assert infer_column(series(["01", "02", "10"] * 50)).kind == "categorical"


def test_leaks_are_found_and_strong_features_are_kept() -> None:
    label = series(rng.random(2000) < 0.02).astype("Int64")
    plan = infer_label(label)
    close = label.astype(float) + rng.normal(0, 0.3, 2000)
    when_known = pd.Series(np.where(label == 1, 3.0, np.nan))

    assert leak(label * 7 + 1, label, plan, True)
    assert leak(pd.Series(np.where(label == 1, "gone", "here")), label, plan, False)
    assert leak(when_known, label, plan, True)
    assert leak(label + rng.random(2000) * 0.9, label, plan, True)
    assert leak(close, label, plan, True) is None
    assert leak(pd.Series(rng.choice(["a", "b"], 2000)), label, plan, False) is None


@pytest.mark.parametrize(
    ("rows", "days", "period"),
    [(300_000, 365, "month"), (10_000, 90, "week"), (5_000, 14, "day"), (300, 60, "month"), (10, 0.0, "day")],
)
def test_periods(rows: int, days: float, period: str) -> None:
    assert choose_period(rows, days or 1) in (period, "week")
    plan = make_plan(rows, 1.0, days)
    assert plan.evaluation_days > 0
    assert plan.validation_days > 0
    assert plan.batch_size in (32, 64, 128, 256, 512, 1024, 2048)
    assert 8 <= plan.epochs <= 60
