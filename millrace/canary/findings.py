"""What one test has found so far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from millrace.spec.rollout import CanaryMetric

Standing = Literal["breach", "undecided", "sound so far"]

BREACH: Standing = "breach"
UNDECIDED: Standing = "undecided"
SOUND: Standing = "sound so far"

#: The e-value from which a canary is suspected. Under the null it is reached once in ten tests at the most.
_SUSPECTED = 10.0
_MOST_LOG = 690.0  # exp of more is no float


@dataclass(frozen=True, slots=True)
class Evidence:
    """A test's numbers, and the sentence that tells them, in the units that the test's class names.

    Each bound of the interval holds at all times at once with confidence 1 - alpha; None where it is beyond the grid of
    nulls. `log_e_peak` is the largest that `log_e` ever was.
    """

    log_e: float = 0.0
    log_e_peak: float = 0.0
    observed: float | None = None
    threshold: float | None = None
    lower: float | None = None
    upper: float | None = None
    num_canary: int = 0
    num_primary: int = 0
    told: str = "nothing to compare yet"


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric of the comparison: its standing, its numbers, and a sentence about them."""

    metric: CanaryMetric
    standing: Standing
    suspected: bool
    observed: float | None
    threshold: float | None
    lower: float | None
    upper: float | None
    e_value: float
    p_value: float
    alpha: float
    num_canary: int
    num_primary: int
    reason: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def find(metric: CanaryMetric, evidence: Evidence, alpha: float, enough: bool) -> Finding:
    """Judge the evidence. A breach stays one, whatever comes after it; `enough`: the step has had its requests."""
    p_value = math.exp(-max(0.0, evidence.log_e_peak))
    suspected = evidence.log_e >= math.log(_SUSPECTED)
    if p_value <= alpha:
        standing = BREACH
    elif suspected or not enough or not evidence.num_canary:
        standing = UNDECIDED
    else:
        standing = SOUND
    return Finding(
        metric=metric,
        standing=standing,
        suspected=suspected,
        observed=evidence.observed,
        threshold=evidence.threshold,
        lower=evidence.lower,
        upper=evidence.upper,
        e_value=math.exp(min(evidence.log_e, _MOST_LOG)),
        p_value=p_value,
        alpha=alpha,
        num_canary=evidence.num_canary,
        num_primary=evidence.num_primary,
        reason=f"{metric}: {standing}; {evidence.told} (p {p_value:.2g})",
    )
