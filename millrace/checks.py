"""Verdicts on a window of answered requests: drift, and quality where outcomes have arrived."""

from __future__ import annotations

import math
from collections.abc import Mapping

from millrace.spec import HIGHER_IS_BETTER, MonitoringSpec, PipelineSpec
from millrace.verdict import Verdict

FEATURE_DRIFT = "feature_drift"
PREDICTION_DRIFT = "prediction_drift"
QUALITY = "quality"


def feature_drift(monitoring: MonitoringSpec, features: Mapping[str, tuple[float, bool]]) -> Verdict:
    """Whether too many features drifted. `features` holds each one's distance and whether it drifted."""
    drifted = sorted((name for name, (_, hit) in features.items() if hit), key=lambda name: -features[name][0])
    share = len(drifted) / len(features) if features else 0.0
    limit = monitoring.drift.max_drifted_share
    reason = f"{len(drifted)} of {len(features)} features drifted ({share:.0%}, at most {limit:.0%} allowed)"
    reasons = (reason, f"most: {', '.join(drifted[:3])}") if drifted else (reason,)
    return Verdict(FEATURE_DRIFT, share <= limit, "drifted_share", share, limit, reasons, {"drifted": drifted})


def prediction_drift(monitoring: MonitoringSpec, distance: float) -> Verdict:
    """Whether the predictions' distribution moved too far."""
    limit = monitoring.drift.prediction_threshold
    reason = f"predictions moved by {distance:.3f} (below {limit:g} allowed)"
    return Verdict(PREDICTION_DRIFT, distance < limit, "distance", distance, limit, (reason,))


def quality(spec: PipelineSpec, observed: float, expected: float, num_rows: int) -> Verdict:
    """Whether the metric on arrived outcomes holds what the version's evaluation promised."""
    metric, rule = spec.evaluation.metric, spec.monitoring.quality
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    worse, threshold = sign * (expected - observed), expected - sign * rule.max_drop
    evidence = {"rows": num_rows, "expected": expected}
    if num_rows < rule.min_rows or math.isnan(observed):
        reason = f"{num_rows:,} outcomes have arrived, {rule.min_rows:,} needed to judge"
        return Verdict(QUALITY, True, metric, None, threshold, (reason,), evidence)
    reason = (
        f"{metric} {observed:.4f} on {num_rows:,} outcomes, {expected:.4f} at its evaluation "
        f"(worse by {worse:+.4f}, at most {rule.max_drop:g} allowed)"
    )
    return Verdict(QUALITY, sign * observed >= sign * threshold, metric, observed, threshold, (reason,), evidence)
