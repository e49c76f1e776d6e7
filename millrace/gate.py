"""The promotion gate: challenger, champion and a trivial baseline on the same rows; a verdict with its reasons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from millrace import statistics, strict_json
from millrace.errors import ArtifactError
from millrace.spec import HIGHER_IS_BETTER, TEXT_METRIC, EvaluationSpec, Label, PipelineSpec
from millrace.statistics import Floats, Improvement
from millrace.storage import Artifact, ObjectStore
from millrace.verdict import Verdict
from millrace.window import Window

GATE = "promotion"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """What the judged rows said. Metrics are by model (`challenger`, `champion`, `baseline`, and others to compare)."""

    window: Window
    num_rows: int
    metrics: Mapping[str, Mapping[str, float]]
    slices: Mapping[str, Mapping[str, Mapping[str, float]]]
    calibration: tuple[statistics.CalibrationBin, ...]
    improvement: Improvement | None
    over_baseline: Improvement | None
    champion_version: str | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict(GATE, False, "", None, None, ("not judged",)))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"window": self.window.as_dict(), "verdict": self.verdict.as_dict()}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `as_dict` gave."""
        gain, over, verdict = (document[name] for name in ("improvement", "over_baseline", "verdict"))
        start, end = (datetime.fromisoformat(document["window"][side]) for side in ("start", "end"))
        values = {
            "window": Window(start, end),
            "calibration": tuple(statistics.CalibrationBin(**part) for part in document["calibration"]),
            "improvement": None if gain is None else Improvement(**gain),
            "over_baseline": None if over is None else Improvement(**over),
            "verdict": Verdict(**{**verdict, "reasons": tuple(verdict["reasons"])}),
        }
        return cls(**{**document, **values})


def publish_evaluation(store: ObjectStore, key: str, evaluation: Evaluation) -> Artifact:
    """Keep an evaluation under a key that names its inputs."""
    return store.publish(key, {EVALUATION: json.dumps(evaluation.as_dict()).encode()})


def load_evaluation(artifact: Artifact) -> Evaluation:
    """The evaluation that was kept as `artifact`.

    Raises:
        ArtifactError: it is none.
    """
    where = f"{artifact.key}/{EVALUATION}"
    document = strict_json.parse(artifact.read(EVALUATION), where, allow_nan=True)
    try:
        return Evaluation.from_dict(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{where} is no evaluation",
            got=f"{type(error).__name__}: {error}",
            next=f"delete the prefix {artifact.key} and run the step again",
        ) from error


def baseline_answers(label: Label, training_labels: Floats, num_rows: int) -> Floats:
    """What one would answer knowing only the training labels: their share, their shares, their mean."""
    if label.kind == "multiclass":
        counts = np.bincount(training_labels.astype(np.int64), minlength=len(label.classes)).astype(np.float64) + 1.0
        return np.tile(counts / counts.sum(), (num_rows, 1))
    return np.full(num_rows, float(np.mean(training_labels)))


def compare(
    spec: PipelineSpec,
    window: Window,
    rows: pd.DataFrame,
    labels: Floats,
    answers: Mapping[str, Floats],
    champion_version: str | None,
) -> Evaluation:
    """Measure `answers` (by model: challenger, baseline and, where one serves, champion) on the same rows."""
    kind = spec.table.label
    return _judged(
        spec,
        window,
        labels,
        answers,
        champion_version,
        metrics={model: statistics.all_metrics(kind, labels, given) for model, given in answers.items()},
        slices=_by_slice(spec.evaluation, rows, labels, answers),
        calibration=tuple(statistics.calibration(labels, answers["challenger"])) if kind.kind == "binary" else (),
    )


def compare_texts(
    spec: PipelineSpec, window: Window, num_bytes: Floats, bits: Mapping[str, Floats], champion_version: str | None
) -> Evaluation:
    """Measure in how many bits each model writes the same documents down, [documents], which have `num_bytes`.

    `bits` are by model: challenger, baseline, champion where there is one; what others have is told beside them.
    """
    metrics = {
        model: {str(TEXT_METRIC): statistics.value(TEXT_METRIC, num_bytes, given)} for model, given in bits.items()
    }
    return _judged(spec, window, num_bytes, bits, champion_version, metrics=metrics, slices={}, calibration=())


def _judged(
    spec: PipelineSpec,
    window: Window,
    labels: Floats,
    answers: Mapping[str, Floats],
    champion_version: str | None,
    *,
    metrics: Mapping[str, Mapping[str, float]],
    slices: Mapping[str, Mapping[str, Mapping[str, float]]],
    calibration: tuple[statistics.CalibrationBin, ...],
) -> Evaluation:
    """The evaluation, with the paired improvements and the verdict that the spec's rule comes to."""
    rule, champion = spec.evaluation, answers.get("champion")

    def paired(other: Floats) -> Improvement:
        return statistics.paired_improvement(
            rule.metric,
            labels,
            answers["challenger"],
            other,
            confidence=rule.confidence,
            samples=rule.bootstrap_samples,
            seed=spec.training.seed,
        )

    judgeable = len(labels) >= 2
    evaluation = Evaluation(
        window=window,
        num_rows=len(labels),
        metrics=metrics,
        slices=slices,
        calibration=calibration,
        improvement=paired(champion) if champion is not None and judgeable else None,
        over_baseline=paired(answers["baseline"]) if judgeable else None,
        champion_version=champion_version,
    )
    return Evaluation(**{**evaluation.__dict__, "verdict": judge(rule, evaluation)})


def judge(rule: EvaluationSpec, evaluation: Evaluation) -> Verdict:
    """The spec's rule: enough rows, better than the baseline, better than the champion with the asked confidence."""
    observed = evaluation.metrics["challenger"][rule.metric]
    evidence = {"window": str(evaluation.window), "rows": evaluation.num_rows, "metrics": dict(evaluation.metrics)}

    def verdict(passed: bool, threshold: float | None, *reasons: str) -> Verdict:
        return Verdict(GATE, passed, rule.metric, observed, threshold, reasons, evidence)

    if evaluation.num_rows < rule.min_rows:
        rows = "documents" if rule.metric == TEXT_METRIC else "labelled rows"
        return verdict(False, None, f"{evaluation.num_rows:,} {rows}, {rule.min_rows:,} needed to judge")
    if math.isnan(observed):
        return verdict(False, None, f"{rule.metric} is undefined on these rows (one class only)")
    base = evaluation.metrics["baseline"][rule.metric]
    over = evaluation.over_baseline
    if over is None or not over.lower > 0:
        return verdict(
            False, base, f"not better than the trivial baseline: {rule.metric} {observed:.4f} against {base:.4f}"
        )
    beats_baseline = f"{rule.metric} {observed:.4f}, baseline {base:.4f}"
    gain = evaluation.improvement
    if gain is None:
        return verdict(True, base, beats_baseline, "no champion yet")
    champion = evaluation.metrics["champion"][rule.metric]
    threshold = champion + (rule.min_improvement if rule.metric in HIGHER_IS_BETTER else -rule.min_improvement)
    told = (
        f"{rule.metric} {observed:.4f} against the champion's {champion:.4f}: better by {gain.difference:+.4f} "
        f"[{gain.lower:+.4f}, {gain.upper:+.4f}] at {rule.confidence:.0%}"
    )
    if gain.difference < rule.min_improvement:
        return verdict(False, threshold, told, f"an improvement of at least {rule.min_improvement:g} is asked for")
    if not gain.lower > 0:
        return verdict(False, threshold, told, "the interval does not exclude that it is worse")
    return verdict(True, threshold, told, beats_baseline)


def _by_slice(
    rule: EvaluationSpec, rows: pd.DataFrame, labels: Floats, answers: Mapping[str, Floats]
) -> dict[str, dict[str, dict[str, float]]]:
    """metric by slice: feature -> category -> {rows, challenger, champion, ...}."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in rule.slices:
        column = rows[name].astype("string").fillna("(missing)").to_numpy()
        result[name] = {}
        for category in sorted(set(column)):
            inside = column == category
            values = {
                model: statistics.value(rule.metric, labels[inside], given[inside]) for model, given in answers.items()
            }
            result[name][str(category)] = {"rows": float(inside.sum()), **values}
    return result
