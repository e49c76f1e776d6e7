"""From judged windows to at most one incident: K of N, cool-down, budget. Time is event time, given, never read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from millrace.spec import BrakesSpec


@dataclass(frozen=True, slots=True)
class BrakeDecision:
    """Whether bad windows may become an incident now, and why (not)."""

    release: bool
    reason: str


def decide(
    brakes: BrakesSpec, bad_windows: Sequence[bool], incident_ends: Sequence[datetime], now: datetime
) -> BrakeDecision:
    """Judge the newest windows, newest first, against the incidents so far (event times of their windows' ends).

    The newest window itself must be bad: a window that recovered opens nothing.
    """
    newest = list(bad_windows[: brakes.of_windows])
    num_bad = sum(newest)
    if not newest or not newest[0]:
        return BrakeDecision(False, "the newest window is good")
    if num_bad < brakes.bad_windows:
        return BrakeDecision(
            False, f"{num_bad} of the newest {brakes.of_windows} windows bad, {brakes.bad_windows} needed"
        )
    if now in incident_ends:
        return BrakeDecision(False, "this window has its incident already")
    # Both ways in time: an older window judged late must not open one beside an incident that came after it.
    near = [end for end in incident_ends if abs(now - end) < timedelta(days=brakes.cool_down_days)]
    if near:
        return BrakeDecision(
            False, f"cooling down: {brakes.cool_down_days:g} days around the incident of {max(near):%Y-%m-%d}"
        )
    spent = _most_beside(now, incident_ends, timedelta(days=brakes.budget_days))
    if spent >= brakes.max_incidents:
        return BrakeDecision(
            False,
            f"budget spent: {spent} incidents in {brakes.budget_days:g} days, {brakes.max_incidents} allowed",
        )
    return BrakeDecision(True, f"{num_bad} of the newest {brakes.of_windows} windows bad")


def _most_beside(now: datetime, incident_ends: Sequence[datetime], budget: timedelta) -> int:
    """The most incidents that any span of `budget` around `now` holds: later ones count when `now` is judged late."""
    starts = [now, *(end for end in incident_ends if end < now and now - end <= budget)]
    return max(sum(start <= end <= start + budget for end in incident_ends) for start in starts)
