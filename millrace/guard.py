"""The guard: whether a version that was just promoted does so badly that the one before must serve again.

A plain function over counts. What a version did is read from the inference log alone (`tasks.guard_watch`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from millrace.spec import GuardSpec
from millrace.verdict import Verdict

GUARD = "guard"
FAILED_SHARE = "failed_share"
P99_MS = "p99_ms"


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests that one version got in a window: how many failed, and the seconds each answered one took."""

    failed: int
    seconds: Sequence[float]

    @property
    def requests(self) -> int:
        return self.failed + len(self.seconds)

    @property
    def failed_share(self) -> float:
        return self.failed / self.requests if self.requests else 0.0

    @property
    def p99_ms(self) -> float | None:
        """Milliseconds within which 99 of 100 answers were computed; None without answers."""
        if not self.seconds:
            return None
        ordered = sorted(self.seconds)
        return ordered[math.ceil(0.99 * len(ordered)) - 1] * 1000


def judge(spec: GuardSpec, traffic: Traffic) -> Verdict:
    """Judge the newest window of a version; a window with fewer than `min_requests` requests passes.

    Of two breaches the failures are told first: their metric is the verdict's, both are among its reasons.
    """
    p99 = traffic.p99_ms
    evidence = {
        "requests": traffic.requests,
        "failed": traffic.failed,
        "p99_ms": p99,
        "window_seconds": spec.window_seconds,
    }
    if traffic.requests < spec.min_requests:
        reason = f"{traffic.requests} requests, {spec.min_requests} needed to judge"
        return Verdict(GUARD, True, FAILED_SHARE, None, spec.max_failed_share, (reason,), evidence)
    breaches = []
    if traffic.failed_share > spec.max_failed_share:
        reason = (
            f"{traffic.failed} of {traffic.requests} requests failed in {spec.window_seconds:g} s: "
            f"{traffic.failed_share:.1%}, {spec.max_failed_share:.1%} allowed"
        )
        breaches.append((FAILED_SHARE, traffic.failed_share, spec.max_failed_share, reason))
    # As with failures, too few of them prove nothing.
    limit = spec.max_p99_ms if len(traffic.seconds) >= spec.min_requests else None
    if limit is not None and p99 is not None and p99 > limit:
        reason = f"99 of 100 answers took up to {p99:.1f} ms in {spec.window_seconds:g} s, {limit:g} ms allowed"
        breaches.append((P99_MS, p99, limit, reason))
    if breaches:
        metric, observed, threshold, _ = breaches[0]
        return Verdict(GUARD, False, metric, observed, threshold, tuple(told for *_, told in breaches), evidence)
    reason = f"{traffic.failed} of {traffic.requests} requests failed"
    return Verdict(GUARD, True, FAILED_SHARE, traffic.failed_share, spec.max_failed_share, (reason,), evidence)
