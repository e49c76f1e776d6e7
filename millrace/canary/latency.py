"""Latency: whether the canary's p95 is above the primary's by more than the tolerated ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from millrace.canary.betting import ABOVE, BELOW, ScoreBets
from millrace.canary.comparison import Comparison, between, lower_bound, upper_bound
from millrace.canary.findings import Evidence
from millrace.canary.observations import Observations
from millrace.spec.rollout import CanaryMetric

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_QUANTILE = 0.95
#: Ratios of the p95s that the confidence bounds may be, beside the tolerance.
_RATIOS = np.array([0.33, 0.5, 0.67, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0, 3.0])
#: Polls that make a stratum: longer than most pauses of a process. At a poll a second, evidence takes a minute.
_POLLS = 5
#: Canary's answers to expect in a stratum: with so many, being slow now and then scores as much as being fast does.
_CANARY_ANSWERS = 100
#: Answers of both arms from which a stratum is complete whatever share the canary has, and whatever the polls are.
_ENOUGH, _MOST_OPEN = 2_000, 20_000


class Latency(Comparison[ScoreBets]):
    """p95 of answered requests in milliseconds. `lower` and `upper` bound the canary's p95 over the primary's.

    For the null "at most r times the primary's", the canary's latencies are divided by r, both arms of a stratum are
    pooled, and it is counted how many of the slowest 5 % are the canary's. The score is where this count lies among
    those that a random choice of the canary's requests would give: 2 u - 1 with the mid-rank u, whose mean is 1/2. The
    cut is within the stratum, so that a burst of slow answers which both arms have neither hides a difference nor looks
    like one; a burst that one arm has alone moves the scores of its strata, to the side of either arm alike, and each
    of them no further than 1.
    """

    metric: ClassVar[CanaryMetric] = "latency"

    def __init__(self, tolerance: float, num_deposits: int, share: float) -> None:
        self._ratios = np.unique(np.append(_RATIOS, tolerance))
        self._tolerance = tolerance
        self._decisive = int(np.searchsorted(self._ratios, tolerance))
        super().__init__(ScoreBets(len(self._ratios), num_deposits))
        self._needed = _answers_needed(share)
        self._open, self._polls = (np.zeros(0), np.zeros(0)), 0
        self._canary_histogram, self._primary_histogram = np.zeros(_NUM_BINS), np.zeros(_NUM_BINS)

    def start_step(self, share: float) -> None:
        super().start_step(share)
        self._needed = _answers_needed(share)

    def observe(self, canary: Observations, primary: Observations) -> None:
        ours = np.concatenate([self._open[0], canary.latencies_ms])
        theirs = np.concatenate([self._open[1], primary.latencies_ms])
        self._open, self._polls = (ours, theirs), self._polls + 1
        number = len(ours) + len(theirs)
        if number < self._needed or (self._polls < _POLLS and number < _MOST_OPEN):
            return
        self._drop_open()
        if len(ours) and len(theirs):
            self._means.add(0.0, len(ours), 0.0, len(theirs))
            self._canary_histogram += _histogram(ours)
            self._primary_histogram += _histogram(theirs) * (len(ours) / len(theirs))
            slow, slow_both = slowest(ours, theirs, self._ratios)
            self._bets.settle(2 * mid_ranks(slow, slow_both, len(ours), number) - 1)
            self._look()

    def log_e(self) -> float:
        return float(self._bets.log_e_values()[ABOVE, self._decisive])

    def _compared(self, log_limit: float) -> Evidence:
        log_e = self._bets.log_e_values()
        observed = _quantile(self._canary_histogram)
        threshold = _quantile(self._primary_histogram) * self._tolerance
        lower = lower_bound(self._ratios, log_e[ABOVE], log_limit)
        upper = upper_bound(self._ratios, log_e[BELOW], log_limit)
        return Evidence(
            log_e=float(log_e[ABOVE, self._decisive]),
            log_e_peak=self._peak,
            observed=observed,
            threshold=threshold,
            lower=lower,
            upper=upper,
            num_canary=self._means.num_canary,
            num_primary=self._means.num_primary,
            told=f"p95 {observed:.4g} ms of {self._means.num_canary:,} answers, {threshold:.4g} ms allowed; "
            f"the primary's times {between(lower, upper, '.3g')}",
        )

    def _drop_open(self) -> None:
        self._open, self._polls = (np.zeros(0), np.zeros(0)), 0

    def _own_state(self) -> dict[str, Any]:
        return {
            "open": [values.tolist() for values in self._open],
            "polls": self._polls,
            "needed": self._needed,
            "histograms": [_sparse(self._canary_histogram), _sparse(self._primary_histogram)],
        }

    def _restore_own(self, state: Mapping[str, Any]) -> None:
        ours, theirs = (np.asarray(values, np.float64) for values in state["open"])
        self._open, self._polls, self._needed = (ours, theirs), int(state["polls"]), int(state["needed"])
        self._canary_histogram, self._primary_histogram = (_dense(sparse) for sparse in state["histograms"])


def slowest(canary: Floats, primary: Floats, ratios: Floats) -> tuple[Counts, Counts]:
    """How many of the slowest 5 % of both arms are the canary's, by ratio that its latencies are divided by.

    Args:
        canary, primary: latencies, [requests] each.
        ratios: [ratios].

    Returns:
        Counts of values above the pooled p95, the canary's and both arms', [ratios] each. Equal values are above it
        together or not at all, so both arms' may be fewer than 5 %.
    """
    number = len(canary) + len(primary)
    num_slow = number - math.ceil(_QUANTILE * number)
    # The cut is the (num_slow + 1)-th largest of both, so it is among as many of each.
    ours, theirs = _largest(canary, num_slow + 1), _largest(primary, num_slow + 1)
    scaled = ours / ratios[:, None]
    pooled = np.concatenate([scaled, np.broadcast_to(theirs, (len(ratios), len(theirs)))], axis=1)
    place = pooled.shape[1] - num_slow - 1
    cut = np.partition(pooled, place, axis=1)[:, place, None]
    return (scaled > cut).sum(axis=1), (pooled > cut).sum(axis=1)


def mid_ranks(marked: Counts, marked_both: Counts, num_canary: int, number: int) -> Floats:
    """Where `marked` lies in its distribution under random choice (hypergeometric): P(less) + P(equal) / 2.

    Args:
        marked: the canary's marks, [strata].
        marked_both: marks of both arms, [strata].
        num_canary, number: the canary's requests, and those of both.
    """
    ranks = np.zeros(len(marked))
    for both in np.unique(marked_both):  # one, but for ties
        chosen = marked_both == both
        fewest, most = max(0, both - (number - num_canary)), min(both, num_canary)
        before = np.arange(fewest, most)
        odds = np.log((both - before) * (num_canary - before))
        odds -= np.log((before + 1) * (number - both - num_canary + before + 1))
        logs = np.concatenate([[0.0], np.cumsum(odds)])
        chances = np.exp(logs - logs.max())
        chances /= chances.sum()
        ranks[chosen] = (np.cumsum(chances) - chances / 2)[marked[chosen] - fewest]
    return ranks


def _answers_needed(share: float) -> int:
    return min(_ENOUGH, math.ceil(_CANARY_ANSWERS / share))


def _largest(values: Floats, count: int) -> Floats:
    return values if len(values) <= count else np.partition(values, len(values) - count)[-count:]


# Histograms of latencies, to tell a p95: bins that grow by 3 % (as DDSketch's; Masson et al. 2019), 0.01 ms to a day.

_GROWTH = math.log(1.03)
_LEAST_MS = 0.01
_NUM_BINS = math.ceil(math.log(86_400_000 / _LEAST_MS) / _GROWTH) + 1


def _histogram(values: Floats) -> Floats:
    bins = np.ceil(np.log(np.maximum(values, _LEAST_MS) / _LEAST_MS) / _GROWTH).astype(np.int64)
    return np.bincount(np.minimum(bins, _NUM_BINS - 1), minlength=_NUM_BINS).astype(np.float64)


def _quantile(histogram: Floats) -> float:
    """Milliseconds, to within 1.5 %."""
    filled = np.cumsum(histogram)
    found = int(np.searchsorted(filled, _QUANTILE * filled[-1]))
    return _LEAST_MS * math.exp(_GROWTH * (found - 0.5))


def _sparse(histogram: Floats) -> list[list[float]]:
    filled = np.flatnonzero(histogram)
    return [filled.tolist(), histogram[filled].tolist()]


def _dense(sparse: list[list[float]]) -> Floats:
    histogram = np.zeros(_NUM_BINS)
    histogram[np.asarray(sparse[0], np.int64)] = sparse[1]
    return histogram
