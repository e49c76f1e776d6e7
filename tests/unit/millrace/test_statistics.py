"""Metrics equal scikit-learn's, weighted or not; intervals cover what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics

from millrace.spec import METRICS, PipelineSpec
from millrace.statistics import (
    CalibrationBin,
    all_metrics,
    calibration,
    calibration_error,
    evaluate,
    paired_improvement,
    value,
)

seeds = st.integers(0, 2**32 - 1)
Floats = NDArray[np.float64]


def binary(seed: int, num_rows: int, decimals: int = 1) -> tuple[Floats, Floats, Floats]:
    """Labels, probabilities with many ties, whole weights with zeros among them: [2, rows]."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(num_rows) < 0.5).astype(np.float64)
    answers = np.clip(0.3 * labels + 0.6 * rng.random(num_rows), 0.01, 0.99).round(decimals)
    return labels, np.clip(answers, 0.01, 0.99), rng.poisson(1.0, (2, num_rows)).astype(np.float64)


@given(seed=seeds, num_rows=st.integers(2, 60))
@settings(max_examples=60, deadline=None)
def test_roc_auc_is_sklearns_with_weights_and_ties(seed: int, num_rows: int) -> None:
    labels, answers, weights = binary(seed, num_rows)
    found = evaluate("roc_auc", labels, answers, weights)
    for row, weight in zip(found, weights, strict=True):
        if len(set(labels[weight > 0])) < 2:
            assert math.isnan(row)
        else:
            assert row == pytest.approx(metrics.roc_auc_score(labels, answers, sample_weight=weight), abs=1e-12)


@given(seed=seeds, num_rows=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_binary_metrics_are_sklearns(seed: int, num_rows: int) -> None:
    labels, answers, weights = binary(seed, num_rows)
    assume((weights.sum(axis=1) > 0).all())
    loss, right = evaluate("log_loss", labels, answers, weights), evaluate("accuracy", labels, answers, weights)
    for number, weight in enumerate(weights):
        expected = metrics.log_loss(labels, answers, sample_weight=weight, labels=[0, 1])
        assert loss[number] == pytest.approx(expected, abs=1e-9)
        expected = metrics.accuracy_score(labels, answers >= 0.5, sample_weight=weight)
        assert right[number] == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, num_rows=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_multiclass_metrics_are_sklearns(seed: int, num_rows: int) -> None:
    rng = np.random.default_rng(seed)
    labels, answers = rng.integers(0, 3, num_rows), rng.dirichlet([1, 1, 1], num_rows).clip(1e-4)
    answers = answers / answers.sum(axis=1, keepdims=True)
    weights = rng.poisson(1.0, (2, num_rows)).astype(np.float64)
    assume((weights.sum(axis=1) > 0).all())
    loss, right = evaluate("log_loss", labels, answers, weights), evaluate("accuracy", labels, answers, weights)
    for number, weight in enumerate(weights):
        expected = metrics.log_loss(labels, answers, sample_weight=weight, labels=[0, 1, 2])
        assert loss[number] == pytest.approx(expected, abs=1e-9)
        expected = metrics.accuracy_score(labels, answers.argmax(axis=1), sample_weight=weight)
        assert right[number] == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, num_rows=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_regression_metrics_are_sklearns(seed: int, num_rows: int) -> None:
    rng = np.random.default_rng(seed)
    labels, answers = rng.normal(size=(2, num_rows))
    weights = rng.poisson(1.0, (2, num_rows)).astype(np.float64)
    assume((weights.sum(axis=1) > 0).all())
    rmse, mae = evaluate("rmse", labels, answers, weights), evaluate("mae", labels, answers, weights)
    for number, weight in enumerate(weights):
        squared = metrics.mean_squared_error(labels, answers, sample_weight=weight)
        assert rmse[number] == pytest.approx(math.sqrt(squared), abs=1e-12)
        assert mae[number] == pytest.approx(metrics.mean_absolute_error(labels, answers, sample_weight=weight))


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_whole_weights_are_repeated_rows(seed: int) -> None:
    labels, answers, weights = binary(seed, 40, decimals=2)
    times = weights[0].astype(int)
    repeated_labels, repeated_answers = np.repeat(labels, times), np.repeat(answers, times)
    assume(len(set(repeated_labels)) == 2)
    for metric in METRICS["binary"]:
        expected = value(metric, repeated_labels, repeated_answers)
        assert evaluate(metric, labels, answers, weights)[0] == pytest.approx(expected, abs=1e-12)


def test_a_certain_wrong_answer_costs_much_but_not_everything() -> None:
    loss = value("log_loss", np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert loss == pytest.approx(-math.log(1e-7))


def test_what_cannot_be_measured_is_nan() -> None:
    assert math.isnan(value("roc_auc", np.ones(3), np.array([0.1, 0.2, 0.3])))
    assert all(math.isnan(value(metric, np.zeros(0), np.zeros(0))) for metric in METRICS["binary"])


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("binary", {"roc_auc", "log_loss", "accuracy", "calibration_error"}),
        ("multiclass", {"log_loss", "accuracy"}),
        ("regression", {"rmse", "mae"}),
    ],
)
def test_all_metrics_of_a_kind(kind: str, names: set[str], make_spec: Callable[..., PipelineSpec]) -> None:
    answers = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]]) if kind == "multiclass" else np.array([0.25, 0.75])
    found = all_metrics(make_spec(kind).data.label, np.array([0.0, 1.0]), answers)
    assert set(found) == names
    assert all(type(number) is float for number in found.values())


# Calibration


def test_bins_count_what_was_said_and_what_happened() -> None:
    answers, labels = np.array([0.0, 0.05, 0.55, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration(labels, answers) == [
        CalibrationBin(2, 0.025, 0.5),
        CalibrationBin(1, 0.55, 1.0),
        CalibrationBin(1, 1.0, 1.0),
    ]
    assert calibration_error(calibration(labels, answers)) == pytest.approx((2 * 0.475 + 0.45) / 4)
    assert math.isnan(calibration_error([]))


@given(seed=seeds, num_rows=st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_every_row_is_in_one_bin(seed: int, num_rows: int) -> None:
    labels, answers, _ = binary(seed, num_rows, decimals=2)
    bins = calibration(labels, answers)
    assert sum(part.num_rows for part in bins) == num_rows
    said = sum(part.num_rows * part.mean_answer for part in bins)
    assert said == pytest.approx(answers.sum())
    assert 0 <= calibration_error(bins) <= 1


def test_answers_that_come_true_have_a_small_error() -> None:
    rng = np.random.default_rng(0)
    answers = rng.random(50_000)
    labels = (rng.random(50_000) < answers).astype(float)
    assert calibration_error(calibration(labels, answers)) < 0.01
    assert calibration_error(calibration(labels, np.clip(answers + 0.2, 0, 1))) > 0.1


# The paired interval


def improvement(metric: Any, labels: Floats, challenger: Floats, champion: Floats, **change: Any) -> Any:
    return paired_improvement(
        metric, labels, challenger, champion, **({"confidence": 0.9, "samples": 200, "seed": 1} | change)
    )


@pytest.mark.parametrize("metric", METRICS["binary"])
def test_equal_answers_are_no_improvement(metric: Any) -> None:
    labels, answers, _ = binary(0, 300)
    found = improvement(metric, labels, answers, answers.copy())
    assert (found.lower, found.difference, found.upper) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("metric", METRICS["binary"])
def test_the_interval_of_two_equally_good_models_holds_zero(metric: Any) -> None:
    rng = np.random.default_rng(4)
    labels = (rng.random(2000) < 0.5).astype(float)
    one = np.clip(0.5 + 0.2 * (labels - 0.5) + rng.normal(0, 0.1, 2000), 0.01, 0.99)
    two = one.copy()
    for kind in (0, 1):  # exchanged within a class, the same answers give the same metric
        two[labels == kind] = rng.permutation(one[labels == kind])
    found = improvement(metric, labels, one, two)
    assert found.lower < 0 < found.upper
    assert found.difference == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("kind", "metric"), [(kind, metric) for kind in METRICS for metric in METRICS[kind]])
def test_a_clearly_better_model_is_better_whatever_the_metrics_direction(kind: str, metric: Any) -> None:
    rng = np.random.default_rng(2)
    if kind == "multiclass":
        labels = rng.integers(0, 3, 600).astype(float)
        bad = rng.dirichlet([2, 2, 2], 600)
        good = 0.5 * bad + 0.5 * np.eye(3)[labels.astype(int)]
    elif kind == "text":
        labels = rng.integers(1, 500, 600).astype(float)
        bad = labels * rng.uniform(2, 4, 600)
        good = 0.9 * bad
    else:
        labels = (rng.random(600) < 0.5).astype(float)
        bad = np.clip(rng.random(600), 0.01, 0.99)
        good = np.clip(0.5 * bad + 0.5 * labels, 0.01, 0.99)
    better, worse = improvement(metric, labels, good, bad), improvement(metric, labels, bad, good)
    assert 0 < better.lower < better.difference < better.upper
    assert worse.difference == -better.difference
    assert worse.upper < 0


def test_a_higher_confidence_gives_a_wider_interval_and_a_seed_the_same() -> None:
    labels, one, _ = binary(0, 300)
    two = binary(1, 300)[1]
    narrow = improvement("accuracy", labels, one, two, confidence=0.6)
    wide = improvement("accuracy", labels, one, two, confidence=0.99)
    assert wide.lower < narrow.lower < narrow.upper < wide.upper
    assert improvement("accuracy", labels, one, two, confidence=0.6) == narrow
    assert improvement("accuracy", labels, one, two, confidence=0.6, seed=2) != narrow


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Means with a known difference: 0.75 one-sided is 0.5 between the bounds."""
    rng, truth, trials = np.random.default_rng(7), 0.1, 200
    inside = above = 0
    for trial in range(trials):
        labels = np.zeros(200)
        champion = 5.0 + rng.exponential(0.3, 200)
        challenger = champion - truth + rng.normal(0, 0.5, 200)
        found = improvement("mae", labels, challenger, champion, confidence=0.75, samples=100, seed=trial)
        inside += found.lower <= truth <= found.upper
        above += truth >= found.lower
    assert 0.42 <= inside / trials <= 0.58
    assert 0.67 <= above / trials <= 0.83


def test_rows_of_one_class_give_no_interval() -> None:
    found = improvement("roc_auc", np.ones(5), np.linspace(0, 1, 5), np.linspace(1, 0, 5))
    assert math.isnan(found.difference)
    assert math.isnan(found.lower)
