"""How a version that answers nobody differs from what was answered: one verdict over the rows of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from millrace.spec import Label
from millrace.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

GATE = "shadow"
METRIC = "moved_share"
#: Probabilities that differ by less are the same answer; of a regression, so many of the answers' standard deviations.
PROBABILITY_TOLERANCE = 0.05
DEVIATIONS_TOLERANCE = 0.1
#: Answers of which so many may have moved.
MOST_MOVED = 0.05


@dataclass(frozen=True, slots=True)
class Bounded:
    """A mean over rows with the bounds of a two-sided interval."""

    value: float
    lower: float
    upper: float


def judge_shadow(
    rows: pd.DataFrame,
    label: Label,
    *,
    tolerance: float | None = None,
    most_moved: float = MOST_MOVED,
    confidence: float = 0.95,
) -> Verdict:
    """Whether a shadow's answers are those that were given.

    `rows` are of `millrace.inference_log.read_shadow`, of one shadow. An answer has moved if it differs by more than
    `tolerance` (in the label's unit; none: the default of its kind), is another class, or if the shadow gave none. It
    passes when the share of moved answers is at most `most_moved` by the upper bound of its interval: with few rows it
    does not. Rows of a request are no independent evidence, so the intervals are by request.
    """
    dropped = int(rows["dropped"].sum()) + int((rows["error"] == "dropped").groupby(rows["request_id"]).any().sum())
    rows = rows[rows["error"] != "dropped"]
    requests = rows["request_id"].to_numpy()
    failed = (rows["error"] != "").to_numpy()
    evidence: dict[str, float | None] = {
        "rows": len(rows),
        "requests": len(set(requests)),
        "failed_rows": int(failed.sum()),
        "dropped": dropped,
    }
    if not len(rows):
        told = f"nothing was mirrored yet, {dropped:,} requests were dropped"
        return Verdict(GATE, False, METRIC, None, most_moved, (told,), evidence)
    moved = failed.copy()
    if label.kind == "multiclass":
        moved |= (rows["prediction"] != rows["shadow"]).to_numpy()
    else:
        given, other = (rows[name].to_numpy(np.float64) for name in ("prediction", "shadow"))
        distance = np.abs(other - given)
        limit = _tolerance(label, given) if tolerance is None else tolerance
        moved |= ~failed & (distance > limit)
        evidence |= {"tolerance": limit} | _numbers(given[~failed], other[~failed], requests[~failed], confidence)
    share = mean_share(moved, requests, confidence)
    evidence |= {"lower": share.lower, "upper": share.upper, "confidence": confidence}
    between = f"{share.value:.2%} ({share.lower:.2%} to {share.upper:.2%})"
    reasons = [f"{between} of {len(rows):,} answers moved, {most_moved:.2%} allowed"]
    if most_moved < share.upper and share.lower <= most_moved:
        reasons.append("too few answers to tell")
    if failed.any():
        reasons.append(f"{int(failed.sum()):,} rows that were answered are not answered by it")
    return Verdict(GATE, share.upper <= most_moved, METRIC, share.value, most_moved, tuple(reasons), evidence)


def mean_share(moved: NDArray[np.bool_], requests: NDArray[np.object_], confidence: float) -> Bounded:
    """The share of rows that moved, with Wilson's interval (1927) at the effective number of rows: rows of a request
    that move together count as fewer (Korn, Graubard 1998, Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data)."""
    value, error = _by_request(moved.astype(np.float64), requests)
    # Where none or all moved nothing tells how rows hang together; by the request is the careful answer.
    count = value * (1 - value) / error**2 if error > 0 else float(len(set(requests)))
    count = min(count, float(len(moved)))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (value + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(value * (1 - value) / count + z**2 / (4 * count**2))
    # At 0 and 1 rounding must not move a bound past what was observed.
    return Bounded(value, min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half)))


def _numbers(given: Floats, other: Floats, requests: NDArray[np.object_], confidence: float) -> dict[str, float | None]:
    if not len(given):
        return {}
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    mean, error = _by_request(np.abs(other - given), requests)
    varies = min(len(given), len(other)) > 1 and given.std() > 0 and other.std() > 0
    return {
        "mean_absolute_difference": mean,
        "difference_lower": max(0.0, mean - z * error),
        "difference_upper": mean + z * error,
        "mean_difference": float((other - given).mean()),
        "correlation": float(np.corrcoef(given, other)[0, 1]) if varies else None,
    }


def _by_request(values: Floats, requests: NDArray[np.object_]) -> tuple[float, float]:
    """The mean over rows, and its standard error by request (a ratio of means over requests; Cochran 1977, ch. 6)."""
    _, index = np.unique(requests.astype(str), return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    mean = float(values.mean())
    residuals = np.bincount(index, weights=values) - mean * sizes
    count = len(sizes)
    if count < 2:
        return mean, 0.0
    return mean, float(np.sqrt(count / (count - 1) * (residuals**2).sum()) / sizes.sum())


def _tolerance(label: Label, given: Floats) -> float:
    return PROBABILITY_TOLERANCE if label.kind == "binary" else DEVIATIONS_TOLERANCE * float(given.std())
