"""The gate promotes only what was measured to be better, and says why in numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from millrace.encoding import labels
from millrace.gate import Evaluation, baseline_answers, compare, judge
from millrace.spec import PipelineSpec
from millrace.statistics import Improvement
from millrace.window import Window

WINDOW = Window(datetime(2024, 1, 1), datetime(2024, 1, 15))
Spec = Callable[..., PipelineSpec]


def evaluation(
    challenger: float = 0.8,
    champion: float | None = 0.7,
    baseline: float = 0.5,
    *,
    metric: str = "roc_auc",
    num_rows: int = 1000,
    gain: tuple[float, float, float] = (0.1, 0.05, 0.15),
    over: tuple[float, float, float] = (0.3, 0.2, 0.4),
) -> Evaluation:
    metrics = {"challenger": {metric: challenger}, "baseline": {metric: baseline}}
    if champion is not None:
        metrics["champion"] = {metric: champion}
    return Evaluation(
        window=WINDOW,
        num_rows=num_rows,
        metrics=metrics,
        slices={},
        calibration=(),
        improvement=None if champion is None else Improvement(*gain),
        over_baseline=Improvement(*over),
    )


def test_better_than_champion_and_baseline_passes(make_spec: Spec) -> None:
    verdict = judge(make_spec().evaluation, evaluation())
    assert verdict.passed
    assert (verdict.gate, verdict.metric, verdict.observed, verdict.threshold) == ("promotion", "roc_auc", 0.8, 0.7)
    assert verdict.reasons == (
        "roc_auc 0.8000 against the champion's 0.7000: better by +0.1000 [+0.0500, +0.1500] at 90%",
        "roc_auc 0.8000, baseline 0.5000",
    )


def test_the_first_model_needs_to_beat_the_baseline_only(make_spec: Spec) -> None:
    verdict = judge(make_spec().evaluation, evaluation(champion=None))
    assert (verdict.passed, verdict.threshold) == (True, 0.5)
    assert verdict.reasons[-1] == "no champion yet"


@pytest.mark.parametrize(
    ("given", "reason", "threshold"),
    [
        ({"num_rows": 499}, "499 labelled rows, 500 needed to judge", None),
        ({"challenger": float("nan")}, "roc_auc is undefined on these rows (one class only)", None),
        (
            {"over": (0.01, 0.0, 0.02)},
            "not better than the trivial baseline: roc_auc 0.8000 against 0.5000",
            0.5,
        ),
        (
            {"over": (float("nan"),) * 3},
            "not better than the trivial baseline: roc_auc 0.8000 against 0.5000",
            0.5,
        ),
        ({"gain": (0.01, 0.0, 0.02)}, "the interval does not exclude that it is worse", 0.7),
        ({"gain": (float("nan"),) * 3}, "the interval does not exclude that it is worse", 0.7),
        ({"gain": (-0.01, -0.03, 0.02)}, "an improvement of at least 0 is asked for", 0.7),
    ],
)
def test_what_is_not_proven_is_refused(
    given: dict[str, Any], reason: str, threshold: float | None, make_spec: Spec
) -> None:
    verdict = judge(make_spec().evaluation, evaluation(**given))
    assert not verdict.passed
    assert verdict.reasons[-1] == reason
    assert verdict.threshold == threshold


@pytest.mark.parametrize(("gain", "passed"), [(0.019, False), (0.02, True)])
def test_the_asked_improvement_is_in_the_metrics_unit(gain: float, passed: bool, make_spec: Spec) -> None:
    rule = make_spec(change={"evaluation.min_improvement": 0.02}).evaluation
    verdict = judge(rule, evaluation(gain=(gain, gain / 2, 0.1)))
    assert verdict.passed is passed
    assert verdict.threshold == pytest.approx(0.72)


def test_less_is_better_for_an_error(make_spec: Spec) -> None:
    rule = make_spec("regression", {"evaluation.min_improvement": 0.5}).evaluation
    verdict = judge(rule, evaluation(3.0, 4.0, 9.0, metric="rmse", gain=(1.0, 0.6, 1.4)))
    assert verdict.passed
    assert verdict.threshold == 3.5


# Measuring


def measured(
    make_spec: Spec, make_rows: Callable[..., pd.DataFrame], kind: str, skill: float, num_rows: int = 800
) -> Evaluation:
    """A challenger that knows `skill` of the truth, a champion that knows little."""
    change = {"evaluation.slices": ["colour"], "evaluation.bootstrap_samples": 50}
    spec, rows = make_spec(kind, change), make_rows(kind, num_rows)
    rows.loc[rows.index[:3], "colour"] = None
    truth = labels(rows, spec.data)
    rng = np.random.default_rng(99)

    def answers(known: float) -> np.ndarray:
        if kind == "regression":
            return truth + (1 - known) * rng.normal(0, 30, len(truth))
        noise = rng.dirichlet([2, 2, 2], len(truth)) if kind == "multiclass" else rng.random(len(truth))
        exact = np.eye(3)[truth.astype(int)] if kind == "multiclass" else truth
        return np.clip(known * exact + (1 - known) * noise, 0.01, 0.99)

    given = {
        "challenger": answers(skill),
        "champion": answers(0.3),
        "baseline": baseline_answers(spec.data.label, truth, len(truth)),
    }
    return compare(spec, WINDOW, rows, truth, given, "7")


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize(("skill", "passed"), [(0.7, True), (0.2, False)])
def test_the_better_of_two_is_told(
    kind: str, skill: float, passed: bool, make_spec: Spec, make_rows: Callable[..., pd.DataFrame]
) -> None:
    found = measured(make_spec, make_rows, kind, skill)
    assert found.verdict.passed is passed, found.verdict.summary
    assert found.improvement is not None
    assert (found.improvement.difference > 0) is passed
    assert set(found.metrics) == {"challenger", "champion", "baseline"}
    assert (found.num_rows, found.champion_version) == (800, "7")
    assert bool(found.calibration) is (kind == "binary")


def test_slices_count_every_row_once_missing_ones_too(make_spec: Spec, make_rows: Callable[..., pd.DataFrame]) -> None:
    slices = measured(make_spec, make_rows, "binary", 0.7).slices["colour"]
    assert set(slices) == {"red", "green", "blue", "(missing)"}
    assert sum(part["rows"] for part in slices.values()) == 800
    assert slices["(missing)"]["rows"] == 3
    assert slices["red"]["challenger"] > slices["red"]["champion"]


def test_an_evaluation_is_json(make_spec: Spec, make_rows: Callable[..., pd.DataFrame]) -> None:
    found = measured(make_spec, make_rows, "binary", 0.7)
    again = json.loads(json.dumps(found.as_dict()))
    assert again["verdict"]["reasons"] == list(found.verdict.reasons)
    assert again["window"] == {"start": "2024-01-01T00:00:00+00:00", "end": "2024-01-15T00:00:00+00:00"}
    assert again["improvement"]["lower"] == found.improvement.lower  # type: ignore[union-attr]


@pytest.mark.parametrize("num_rows", [0, 1])
def test_too_few_rows_to_measure_fail_without_a_warning(num_rows: int, make_spec: Spec) -> None:
    spec, truth = make_spec(), np.ones(num_rows)
    rows = pd.DataFrame({"colour": ["red"] * num_rows})
    given = {"challenger": truth * 0.5, "baseline": truth * 0.5}
    verdict = compare(spec, WINDOW, rows, truth, given, None).verdict
    assert verdict.reasons == (f"{num_rows} labelled rows, 500 needed to judge",)


def test_the_baseline_knows_the_training_labels_only(make_spec: Spec) -> None:
    binary, multiclass, regression = (make_spec(kind).data.label for kind in ("binary", "multiclass", "regression"))
    np.testing.assert_allclose(baseline_answers(binary, np.array([1.0, 0, 0, 0]), 2), [0.25, 0.25])
    np.testing.assert_allclose(baseline_answers(regression, np.array([1.0, 3.0]), 3), [2.0, 2.0, 2.0])
    shares = baseline_answers(multiclass, np.array([0.0, 0.0, 1.0]), 2)
    np.testing.assert_allclose(shares, [[0.5, 1 / 3, 1 / 6]] * 2), "a class never seen is not impossible"
