"""Verdicts on a window of answers: drift, and quality where outcomes have come."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from millrace.checks import feature_drift, prediction_drift, quality
from millrace.spec import PipelineSpec

Spec = Callable[..., PipelineSpec]


@pytest.mark.parametrize(("drifted", "passed"), [(0, True), (2, True), (3, False)])
def test_features_may_drift_up_to_the_allowed_share(drifted: int, passed: bool, make_spec: Spec) -> None:
    features = {f"f{number}": (0.2 + number / 10, number < drifted) for number in range(4)}
    verdict = feature_drift(make_spec().monitoring, features)
    assert (verdict.passed, verdict.observed, verdict.threshold) == (passed, drifted / 4, 0.5)
    assert verdict.reasons[0] == f"{drifted} of 4 features drifted ({drifted / 4:.0%}, at most 50% allowed)"
    assert verdict.evidence["drifted"] == [f"f{number}" for number in reversed(range(drifted))], "the farthest first"
    assert len(verdict.reasons) == (2 if drifted else 1)


def test_only_the_three_farthest_are_named(make_spec: Spec) -> None:
    features = {"a": (0.1, True), "b": (0.9, True), "c": (0.5, True), "d": (0.7, True), "e": (5.0, False)}
    assert feature_drift(make_spec().monitoring, features).reasons[1] == "most: b, d, c"


def test_no_feature_is_no_drift(make_spec: Spec) -> None:
    assert feature_drift(make_spec().monitoring, {}).passed


@pytest.mark.parametrize(("distance", "passed"), [(0.099, True), (0.1, False), (float("nan"), False)])
def test_predictions_must_stay_below_the_threshold(distance: float, passed: bool, make_spec: Spec) -> None:
    verdict = prediction_drift(make_spec().monitoring, distance)
    assert (verdict.passed, verdict.threshold) == (passed, 0.1)
    assert verdict.reasons == (f"predictions moved by {distance:.3f} (below 0.1 allowed)",)


@pytest.mark.parametrize(
    ("kind", "observed", "passed", "threshold"),
    [
        ("binary", 0.75, True, 0.75),
        ("binary", 0.749, False, 0.75),
        ("binary", 0.9, True, 0.75),
        ("regression", 0.8 + 0.05, True, 0.85),
        ("regression", 0.86, False, 0.85),
        ("regression", 0.1, True, 0.85),
    ],
)
def test_quality_may_drop_by_so_much(
    kind: str, observed: float, passed: bool, threshold: float, make_spec: Spec
) -> None:
    spec = make_spec(kind, {"monitoring.quality": {"max_drop": 0.05, "min_rows": 10}})
    verdict = quality(spec, observed, 0.8, 1000)
    assert verdict.passed is passed
    assert verdict.threshold == pytest.approx(threshold)
    assert verdict.reasons[0].startswith(f"{verdict.metric} {observed:.4f} on 1,000 outcomes, 0.8000 at its evaluation")
    assert verdict.evidence == {"rows": 1000, "expected": 0.8}


@pytest.mark.parametrize(("num_rows", "observed"), [(499, 0.1), (5000, float("nan"))])
def test_quality_is_not_judged_on_too_little(num_rows: int, observed: float, make_spec: Spec) -> None:
    verdict = quality(make_spec(), observed, 0.8, num_rows)
    assert (verdict.passed, verdict.observed) == (True, None)
    assert verdict.reasons == (f"{num_rows:,} outcomes have arrived, 500 needed to judge",)
