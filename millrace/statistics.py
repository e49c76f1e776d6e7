"""Metrics and their paired uncertainty, weighted so that a bootstrap is one matrix product.

Labels are float [rows]; answers are as `millrace.package.Predictor` gives them; weights are [samples, rows].
Of texts, a row is a document, its label the number of its bytes, and an answer the bits a model needs to write it down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millrace.spec import HIGHER_IS_BETTER, METRICS, TEXT_METRIC, Label, Metric

Floats = NDArray[np.floating]
_EPSILON = 1e-7
_CALIBRATION_BINS = 10


def evaluate(metric: Metric, labels: Floats, answers: Floats, weights: Floats | None = None) -> Floats:
    """`metric` under each row of `weights`; without weights, one value of all rows equally.

    Returns:
        float64 [samples]; NaN where the metric is undefined (one class only).
    """
    weights = np.ones((1, len(labels))) if weights is None else np.asarray(weights, np.float64)
    labels = np.asarray(labels, np.float64)
    if metric == "roc_auc":
        return _roc_auc(labels, np.asarray(answers, np.float64), weights)
    if metric == TEXT_METRIC:
        # Long documents count for more, as they have more bytes: a mean of the documents' own would not.
        per_row: Floats = np.asarray(answers, np.float64)
        totals = weights @ labels
    else:
        per_row = _per_row(metric, labels, np.asarray(answers, np.float64))
        totals = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ per_row) / totals
    result: Floats = np.sqrt(means) if metric == "rmse" else means
    return result


def _per_row(metric: Metric, labels: Floats, answers: Floats) -> Floats:
    rows = np.arange(len(labels))
    if metric == "log_loss":
        chosen = (
            answers[rows, labels.astype(np.int64)] if answers.ndim == 2 else np.where(labels == 1, answers, 1 - answers)
        )
        loss: Floats = -np.log(np.clip(chosen, _EPSILON, 1.0))
        return loss
    if metric == "accuracy":
        guess = answers.argmax(axis=1) if answers.ndim == 2 else answers >= 0.5
        return np.asarray(guess == labels, np.float64)
    difference = answers - labels
    error: Floats = difference**2 if metric == "rmse" else np.abs(difference)
    return error


def _roc_auc(labels: Floats, scores: Floats, weights: Floats) -> Floats:
    """Weighted Mann-Whitney statistic: the share of (positive, negative) pairs in the right order, ties half."""
    order = np.argsort(scores, kind="stable")
    positive = labels[order] == 1
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    ordered = weights[:, order]
    positives = np.add.reduceat(ordered * positive, starts, axis=1)
    negatives = np.add.reduceat(ordered * ~positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Floats = (positives * (below + negatives / 2)).sum(axis=1) / pairs
    return result


def value(metric: Metric, labels: Floats, answers: Floats) -> float:
    """`metric` of all rows; NaN where it is undefined or there are no rows."""
    return float(evaluate(metric, labels, answers)[0]) if len(labels) else float("nan")


def all_metrics(label: Label, labels: Floats, answers: Floats) -> dict[str, float]:
    """Every metric that fits the label's kind, and the calibration error where answers are probabilities."""
    metrics: dict[str, float] = {metric: value(metric, labels, answers) for metric in METRICS[label.kind]}
    if label.kind == "binary":
        metrics["calibration_error"] = calibration_error(calibration(labels, answers))
    return metrics


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Rows whose probability fell into one bin: how many, what was said, what happened."""

    num_rows: int
    mean_answer: float
    mean_label: float


def calibration(labels: Floats, answers: Floats, num_bins: int = _CALIBRATION_BINS) -> list[CalibrationBin]:
    """The reliability curve of binary probabilities, in bins of equal width; empty bins are left out."""
    bins = np.clip((answers * num_bins).astype(np.int64), 0, num_bins - 1)
    return [
        CalibrationBin(int(inside.sum()), float(answers[inside].mean()), float(labels[inside].mean()))
        for number in range(num_bins)
        if (inside := bins == number).any()
    ]


def calibration_error(bins: list[CalibrationBin]) -> float:
    """Expected calibration error: mean |said - happened| over rows (Naeini et al., AAAI 2015)."""
    total = sum(part.num_rows for part in bins)
    return (
        sum(part.num_rows * abs(part.mean_answer - part.mean_label) for part in bins) / total if total else float("nan")
    )


@dataclass(frozen=True, slots=True)
class Improvement:
    """How much better the challenger is, positive for better, with the bounds of a two-sided interval."""

    difference: float
    lower: float
    upper: float


def paired_improvement(
    metric: Metric,
    labels: Floats,
    challenger: Floats,
    champion: Floats,
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
) -> Improvement:
    """Challenger against champion on the same rows, by a paired bootstrap (Efron & Tibshirani 1993, ch. 13).

    `confidence` is one-sided: `lower` is exceeded with that confidence.
    """
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    generator = np.random.default_rng(seed)
    differences = []
    for start in range(0, samples, 50):
        # Poisson(1) weights stand for resampling with replacement and cost no sorting of indices.
        weights = generator.poisson(1.0, (min(50, samples - start), len(labels))).astype(np.float64)
        differences.append(
            sign * (evaluate(metric, labels, challenger, weights) - evaluate(metric, labels, champion, weights))
        )
    spread = np.concatenate(differences)
    spread = spread[~np.isnan(spread)]
    difference = sign * (value(metric, labels, challenger) - value(metric, labels, champion))
    if not len(spread):
        return Improvement(difference, float("nan"), float("nan"))
    lower, upper = np.quantile(spread, [1 - confidence, confidence])
    return Improvement(difference, float(lower), float(upper))
