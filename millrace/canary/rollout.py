"""From a test's findings to what a rollout does next. Time is given, never read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from millrace.canary.findings import BREACH
from millrace.canary.judgement import CanaryTest
from millrace.spec.rollout import RolloutSpec

Move = Literal["hold", "advance", "complete", "roll back"]


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """What to do now, and why: hold the share, advance to the next step, complete (all traffic), or roll back."""

    move: Move
    reason: str


def decide(spec: RolloutSpec, test: CanaryTest, seconds_in_step: float) -> RolloutDecision:
    """Judge after each poll.

    A suspected canary is held where it is until the suspicion is gone or has become a breach: it costs a good one a few
    minutes, and keeps a bad one from more traffic.
    """
    findings = test.findings()
    if breaches := [finding for finding in findings if finding.standing == BREACH]:
        return RolloutDecision("roll back", min(breaches, key=lambda finding: finding.p_value).reason)
    step = spec.steps[test.step]
    if test.step_requests < step.min_requests:
        return RolloutDecision("hold", f"{test.step_requests:,} requests in this step, {step.min_requests:,} needed")
    if seconds_in_step < step.min_seconds:
        return RolloutDecision("hold", f"{seconds_in_step:.0f} s in this step, {step.min_seconds:g} needed")
    if suspected := [finding for finding in findings if finding.suspected]:
        return RolloutDecision("hold", f"suspected: {max(suspected, key=lambda finding: finding.e_value).reason}")
    told = f"{test.step_requests:,} requests at {step.share:.0%} without a breach"
    return RolloutDecision("advance" if test.step + 1 < len(spec.steps) else "complete", told)
