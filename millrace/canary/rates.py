"""Failures and quality: whether the canary's mean of a value in [0, 1] exceeds the primary's by more than tolerated."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.canary.betting import ABOVE, BELOW, Marks, MeanBets, Sums
from millrace.canary.comparison import Comparison, between, lower_bound, upper_bound
from millrace.canary.findings import Evidence
from millrace.canary.observations import Observations

Floats = NDArray[np.float64]

#: Differences of means that the confidence bounds may be, beside the tolerance.
_STEPS = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5])
_DIFFERENCES = np.concatenate([-_STEPS[::-1], [0.0], _STEPS])

#: Requests of both arms that make a stratum. Failures are settled early: a canary that answers nothing must go at once.
_FAILURES_STRATUM = 20
_QUALITY_STRATUM = 200


class _Excess(Comparison[MeanBets]):
    """Means against each other; the null that decides is "exceeds by at most the tolerance"."""

    def __init__(self, tolerance: float, num_deposits: int) -> None:
        self._grid = np.unique(np.append(_DIFFERENCES, tolerance))
        self._tolerance = tolerance
        self._decisive = int(np.searchsorted(self._grid, tolerance))
        super().__init__(MeanBets(self._grid, num_deposits))

    def log_e(self) -> float:
        return float(self._bets.log_e_values()[ABOVE, self._decisive])

    def _compared(self, log_limit: float) -> Evidence:
        log_e = self._bets.log_e_values()
        observed, threshold = float(self._means.canary[0]), float(self._means.primary[0]) + self._tolerance
        lower = lower_bound(self._grid, log_e[ABOVE], log_limit)
        upper = upper_bound(self._grid, log_e[BELOW], log_limit)
        return Evidence(
            log_e=float(log_e[ABOVE, self._decisive]),
            log_e_peak=self._peak,
            observed=observed,
            threshold=threshold,
            lower=lower,
            upper=upper,
            num_canary=self._means.num_canary,
            num_primary=self._means.num_primary,
            told=self._told(observed, threshold, lower, upper),
        )

    @abstractmethod
    def _told(self, observed: float, threshold: float, lower: float | None, upper: float | None) -> str: ...


class Failures(_Excess):
    """Share of requests that fail. `lower` and `upper` bound the canary's share less the primary's.

    Values are 0 or 1 and mostly 0, so the bets are centred at 0: they need no idea of how often requests fail.
    """

    metric = "failures"

    def __init__(self, tolerance: float, num_deposits: int) -> None:
        super().__init__(tolerance, num_deposits)
        self._open = [0, 0, 0, 0]  # canary's failures and requests, the primary's

    def observe(self, canary: Observations, primary: Observations) -> None:
        seen = (canary.failures, canary.requests, primary.failures, primary.requests)
        self._open = [before + now for before, now in zip(self._open, seen, strict=True)]
        failed, asked, primary_failed, primary_asked = self._open
        if asked + primary_asked < _FAILURES_STRATUM:
            return
        self._drop_open()
        if asked and primary_asked:
            self._means.add(failed, asked, primary_failed, primary_asked)
            self._bets.settle(Marks(failed, asked), Marks(primary_failed, primary_asked))
            self._look()

    def _told(self, observed: float, threshold: float, lower: float | None, upper: float | None) -> str:
        return (
            f"{observed:.2%} of {self._means.num_canary:,} requests failed, {threshold:.2%} allowed; "
            f"the primary's share and {between(_points(lower), _points(upper), '+.2g', ' points')}"
        )

    def _drop_open(self) -> None:
        self._open = [0, 0, 0, 0]

    def _own_state(self) -> dict[str, Any]:
        return {"open": list(self._open)}

    def _restore_own(self, state: Mapping[str, Any]) -> None:
        failed, asked, primary_failed, primary_asked = (int(count) for count in state["open"])
        self._open = [failed, asked, primary_failed, primary_asked]


class Quality(_Excess):
    """Mean loss. `lower` and `upper` bound the canary's mean loss less the primary's.

    The bets are centred at the mean of the strata before and as bold as their spread allows: losses that differ little
    from each other are compared as sharply as they can be.
    """

    metric = "quality"

    def __init__(self, tolerance: float, num_deposits: int) -> None:
        super().__init__(tolerance, num_deposits)
        self._open = [_NOTHING, _NOTHING]
        self._past = _NOTHING

    def observe(self, canary: Observations, primary: Observations) -> None:
        self._open = [_plus(self._open[0], _sums(canary.losses)), _plus(self._open[1], _sums(primary.losses))]
        ours, theirs = self._open
        if ours.number + theirs.number < _QUALITY_STRATUM:
            return
        self._drop_open()
        if ours.number and theirs.number:
            centre, boldness = _centre_and_boldness(self._past)
            self._means.add(ours.total, ours.number, theirs.total, theirs.number)
            self._bets.settle(ours, theirs, centre, boldness)
            self._look()
        self._past = _plus(self._past, _plus(ours, theirs))

    def _told(self, observed: float, threshold: float, lower: float | None, upper: float | None) -> str:
        return (
            f"mean loss {observed:.4f} on {self._means.num_canary:,} outcomes, {threshold:.4f} allowed; "
            f"the primary's and {between(lower, upper, '+.3g')}"
        )

    def _drop_open(self) -> None:
        self._open = [_NOTHING, _NOTHING]

    def _own_state(self) -> dict[str, Any]:
        sums = (*self._open, self._past)
        return {"sums": [[one.number, one.total, one.squares] for one in sums]}

    def _restore_own(self, state: Mapping[str, Any]) -> None:
        ours, theirs, past = (Sums(int(n), float(total), float(squares)) for n, total, squares in state["sums"])
        self._open, self._past = [ours, theirs], past


_NOTHING = Sums(0, 0.0, 0.0)


def _sums(values: Floats) -> Sums:
    return Sums(len(values), float(values.sum()), float(values @ values))


def _plus(one: Sums, other: Sums) -> Sums:
    return Sums(one.number + other.number, one.total + other.total, one.squares + other.squares)


def _centre_and_boldness(past: Sums) -> tuple[float, float]:
    """Mean of past losses, and how much less they vary than 0/1 losses of that mean (1 to 100 times)."""
    if not past.number:
        return 0.5, 1.0
    mean = past.total / past.number
    variance = max(past.squares / past.number - mean**2, 1e-6)
    return mean, float(np.clip(mean * (1 - mean) / variance, 1.0, 100.0))


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share
