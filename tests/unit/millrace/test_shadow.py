"""The verdict on a shadow: what moved, how surely, and what does not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.shadow import judge_shadow, mean_share
from millrace.spec import Label

BINARY = Label(column="y", kind="binary")


def rows(given: Any, other: Any, per_request: int = 1, error: Any = "", dropped: int = 0) -> pd.DataFrame:
    count = len(given)
    ids = [f"r{number // per_request}" for number in range(count)]
    columns = {"request_id": ids, "row": 0, "prediction": given, "shadow": other, "error": error, "dropped": 0}
    table = pd.DataFrame(columns)
    table.loc[0, "dropped"] = dropped
    return table


def test_the_same_answers_pass_once_there_are_enough() -> None:
    values = np.linspace(0, 1, 1000)
    verdict = judge_shadow(rows(values, values + 0.01, dropped=7), BINARY)
    assert verdict.passed
    assert (verdict.observed, verdict.evidence["dropped"]) == (0.0, 7)
    assert verdict.evidence["mean_absolute_difference"] == pytest.approx(0.01)
    assert verdict.evidence["correlation"] == pytest.approx(1.0)
    assert verdict.evidence["upper"] < 0.005
    few = judge_shadow(rows(values[:20], values[:20]), BINARY)
    assert not few.passed
    assert "too few" in few.summary


def test_answers_that_moved_fail() -> None:
    values = np.linspace(0, 0.8, 1000)
    other = values + np.where(np.arange(1000) % 5 == 0, 0.1, 0.0)
    verdict = judge_shadow(rows(values, other), BINARY)
    assert not verdict.passed
    assert verdict.observed == pytest.approx(0.2)
    assert verdict.evidence["lower"] < 0.2 < verdict.evidence["upper"]
    assert "too few" not in verdict.summary
    assert judge_shadow(rows(values, other), BINARY, tolerance=0.11).passed
    assert judge_shadow(rows(values, other), BINARY, most_moved=0.3).passed


def test_an_answer_that_was_not_given_has_moved_and_a_dropped_one_is_none() -> None:
    values = np.full(1000, 0.5)
    error = np.where(np.arange(1000) < 100, "RequestError", np.where(np.arange(1000) < 200, "dropped", ""))
    other = np.where(error == "", values, np.nan)
    verdict = judge_shadow(rows(values, other, error=error), BINARY)
    assert verdict.observed == pytest.approx(100 / 900)
    assert (verdict.evidence["failed_rows"], verdict.evidence["dropped"]) == (100, 100)
    assert verdict.evidence["mean_absolute_difference"] == 0.0


def test_classes_are_the_same_or_not() -> None:
    label = Label(column="y", kind="multiclass", classes=["a", "b"])
    verdict = judge_shadow(rows(["a", "b"] * 500, ["a", "a"] * 500), label)
    assert verdict.observed == 0.5
    assert "correlation" not in verdict.evidence


def test_a_regression_is_measured_in_its_own_spread() -> None:
    values = np.arange(1000.0)
    assert judge_shadow(rows(values, values + 20), Label(column="y", kind="regression")).passed
    assert not judge_shadow(rows(values, values + 40), Label(column="y", kind="regression")).passed


def test_nothing_is_no_verdict() -> None:
    verdict = judge_shadow(rows([], []).iloc[:0], BINARY)
    assert (verdict.passed, verdict.observed) == (False, None)
    assert "nothing was mirrored" in verdict.summary


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=60))
def test_the_interval_holds_what_was_observed(found: list[tuple[bool, int]]) -> None:
    moved = np.asarray([each for each, _ in found])
    share = mean_share(moved, np.asarray([str(request) for _, request in found], object), 0.95)
    assert 0 <= share.lower <= share.value <= share.upper <= 1
    assert share.value == pytest.approx(moved.mean())
    assert share.upper > share.value or share.value == 1


@pytest.mark.parametrize(("truth", "per_request"), [(0.05, 1), (0.05, 10), (0.3, 10)])
def test_the_interval_holds_the_truth_as_often_as_it_says_though_rows_of_a_request_move_together(
    truth: float, per_request: int
) -> None:
    generator = np.random.default_rng(5)
    requests = np.repeat(np.arange(300).astype(str).astype(object), per_request)
    held = 0
    for _ in range(400):
        by_request = generator.beta(truth * 2, (1 - truth) * 2, 300)
        moved = generator.random(len(requests)) < np.repeat(by_request, per_request)
        share = mean_share(moved, requests, 0.95)
        held += share.lower <= truth <= share.upper
    assert held / 400 > 0.92
