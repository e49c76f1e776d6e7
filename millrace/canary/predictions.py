"""Predictions: whether the canary's are distributed otherwise than the primary's, by more than tolerated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from millrace.canary.betting import ABOVE, BELOW, Marks, MeanBets
from millrace.canary.comparison import Comparison, Means, between, lower_bound, upper_bound
from millrace.canary.findings import Evidence
from millrace.canary.observations import Observations
from millrace.spec.rollout import CanaryMetric

Floats = NDArray[np.float64]

#: Predictions of the primary from which the cuts are learned, once.
_LEARNED_FROM = 500
_LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
#: A value that so many predictions equal is cut off on both sides: a class, a constant.
_ATOM = 0.05
#: Predictions of both arms that make a stratum.
_STRATUM = 50
#: Distances that the confidence bounds may be, beside the tolerance.
_DISTANCES = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.4])


class Predictions(Comparison[MeanBets]):
    """Share of predictions above each of a few cuts. `lower` and `upper` bound the largest difference of these shares.

    The cuts are quantiles of the primary's first predictions and stay. At each, two bets say that the canary has more
    above it and that it has less. The mean of all their e-values is one against "nowhere more than the tolerance", so
    the cuts share one budget. That is a Kolmogorov-Smirnov distance seen at the cuts only: what moves between two of
    them, and nothing else, is not found.
    """

    metric: ClassVar[CanaryMetric] = "predictions"

    def __init__(self, tolerance: float, num_deposits: int) -> None:
        self._distances = np.unique(np.append(_DISTANCES, tolerance))
        self._tolerance = tolerance
        self._decisive = int(np.searchsorted(self._distances, tolerance))
        self._num_deposits = num_deposits
        super().__init__(MeanBets(np.zeros(0), num_deposits), 0)
        self._sample = np.zeros(0)
        self._set_cuts(np.zeros(0), np.zeros(0))

    def observe(self, canary: Observations, primary: Observations) -> None:
        if not len(self._cuts):
            self._learn(primary.predictions)
            return
        for arm, values in enumerate((canary.predictions, primary.predictions)):
            self._open_above[arm] += (values > self._cuts[:, None]).sum(axis=1)
            self._open_number[arm] += len(values)
        ours, theirs = (int(number) for number in self._open_number)
        if ours + theirs < _STRATUM:
            return
        above, above_theirs = self._open_above.astype(np.float64)
        self._drop_open()
        if ours and theirs:
            self._means.add(above, ours, above_theirs, theirs)
            times = 2 * len(self._distances)
            self._bets.settle(
                Marks(np.repeat(above, times), ours),
                Marks(np.repeat(above_theirs, times), theirs),
                np.repeat(self._shares, times),
            )
            self._look()

    def log_e(self) -> float:
        return float(self._log_e_outside()[self._decisive]) if len(self._cuts) else 0.0

    def _compared(self, log_limit: float) -> Evidence:
        observed = float(np.abs(self._means.canary - self._means.primary).max())
        lower = lower_bound(self._distances, self._log_e_outside(), log_limit)
        upper = upper_bound(self._distances, self._log_e_inside(), log_limit)
        return Evidence(
            log_e=self.log_e(),
            log_e_peak=self._peak,
            observed=observed,
            threshold=self._tolerance,
            lower=lower,
            upper=upper,
            num_canary=self._means.num_canary,
            num_primary=self._means.num_primary,
            told=f"of {self._means.num_canary:,} predictions {observed:.1%} lie elsewhere than the primary's, "
            f"{self._tolerance:.1%} allowed; {between(_percent(lower), _percent(upper), '.2g', ' %')}",
        )

    def _learn(self, predictions: Floats) -> None:
        self._sample = np.concatenate([self._sample, predictions])
        if len(self._sample) >= _LEARNED_FROM:
            cuts = cuts_of(self._sample)
            # Kept off 0 and 1, where a bet around them would be of no size.
            shares = ((self._sample > cuts[:, None]).sum(axis=1) + 0.5) / (len(self._sample) + 1)
            self._sample = np.zeros(0)
            self._set_cuts(cuts, shares)

    def _set_cuts(self, cuts: Floats, shares: Floats) -> None:
        self._cuts, self._shares = cuts, shares
        signed = np.concatenate([self._distances, -self._distances])
        self._bets = MeanBets(np.tile(signed, len(cuts)), self._num_deposits, self._bets.deposits)
        self._means = Means(len(cuts))
        self._drop_open()

    def _by_side(self) -> Floats:
        """Log e-values, [side of the bet, cuts, sign of the difference, distances]."""
        return self._bets.log_e_values().reshape(2, len(self._cuts), 2, len(self._distances))

    def _log_e_outside(self) -> Floats:
        """Against "within this distance at each cut", [distances]."""
        by_side = self._by_side()
        more, less = by_side[ABOVE, :, 0], by_side[BELOW, :, 1]
        together: Floats = np.logaddexp.reduce(np.concatenate([more, less]), axis=0) - math.log(2 * len(self._cuts))
        return together

    def _log_e_inside(self) -> Floats:
        """Against "at least this distance at some cut": what stands against each of the ways to be so, [distances]."""
        by_side = self._by_side()
        least: Floats = np.minimum(by_side[BELOW, :, 0], by_side[ABOVE, :, 1]).min(axis=0)
        return least

    def _drop_open(self) -> None:
        self._open_above = np.zeros((2, len(self._cuts)), np.int64)
        self._open_number = np.zeros(2, np.int64)

    def _own_state(self) -> dict[str, Any]:
        return {
            "sample": self._sample.tolist(),
            "cuts": self._cuts.tolist(),
            "shares": self._shares.tolist(),
            "open_above": self._open_above.tolist(),
            "open_number": self._open_number.tolist(),
        }

    def _restore_own(self, state: Mapping[str, Any]) -> None:
        self._sample = np.asarray(state["sample"], np.float64)
        cuts, shares = np.asarray(state["cuts"], np.float64), np.asarray(state["shares"], np.float64)
        if cuts.shape != shares.shape:
            raise ValueError(f"{cuts.shape} cuts and {shares.shape} shares")
        self._set_cuts(cuts, shares)
        self._open_above = np.asarray(state["open_above"], np.int64).reshape(2, len(self._cuts))
        self._open_number = np.asarray(state["open_number"], np.int64)


def cuts_of(sample: Floats) -> Floats:
    """Cuts for "above": quantiles of `sample`, and just below those that many values equal; ascending, each once."""
    values = np.unique(np.quantile(sample, _LEVELS, method="inverted_cdf"))
    atoms = values[(sample == values[:, None]).mean(axis=1) >= _ATOM]
    return np.unique(np.concatenate([values, np.nextafter(atoms, -np.inf)]))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
