"""The one statistic behind every canary test: bets on whose mean is larger, which cannot win if the null holds.

A *stratum* is a stretch of traffic that both arms served: m requests of the canary, n of the primary, s = m / (m + n).
Each request has a value in [0, 1] (failed or not, above a cut or not, a loss). For the null "the canary's mean exceeds
the primary's by at most d", a bet of size t > 0 around a centre c that was fixed before the stratum multiplies what was
staked by

    prod over canary  (1 + (1 - s) t (x - c - d))   *   prod over primary  (1 - s t (y - c)).

Under the null its expectation is at most 1. For independent values with means mu and nu of the arms, by concavity of
the logarithm, 1/(m + n) log E <= log(1 + s (1 - s) t (mu - nu - d)) <= 0. What both arms share (a burst, a time of day)
may be anything: given it, the argument holds. With 0/1 values, c = 0 and d = 0 the product is
theta^x / (1 + s (theta - 1))^(x + y), the likelihood ratio of "each mark is the canary's with these odds"; there it
also holds for any fixed values, however dependent, if only the router's choice was random (Hoeffding 1963, theorem 4:
drawing without replacement is dominated by drawing with it). Negative t bets against the null "exceeds by at least d".

So what was staked, over all strata, is an e-process: the chance that it ever reaches 1/a is at most a, however often
and whenever one looks (Ville). These are the two-sample e-variables of Turner, Ly & Gruenwald (2024, "Generic
e-variables for exact sequential k-sample tests that allow for optional stopping") written as bets, which carries them
from 0/1 to bounded values (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting"). The
size of the effect is not known, so capital is spread over a grid of bets (method of mixtures); all nulls of a grid
together give a confidence sequence.

Where requests of one arm that come together may be alike for a reason of their own (latency: a pause of one process),
the requests of a stratum are no independent evidence. There the stratum as a whole gets one score in [-1, 1] with mean
at most 0 under the null, and a bet of size f < 1 multiplies by 1 + f score: however many requests were slow together,
they count once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The effects that are betted on, as odds ratios of canary to primary, and how much capital each gets.
_ODDS_RATIOS = np.array([1.03, 1.1, 1.25, 1.5, 2.0, 3.0, 6.0, 20.0, 100.0])
_ODDS_STAKES = np.array([0.04, 0.1, 0.16, 0.2, 0.2, 0.16, 0.08, 0.04, 0.02])

#: The parts of a stake that are betted on a score, and how much capital each gets.
_FRACTIONS = np.array([0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])
_FRACTION_STAKES = np.full(len(_FRACTIONS), 1 / len(_FRACTIONS))

ABOVE, BELOW = 0, 1

#: The largest part of a stake that one request may lose; all of it would end the bet for good.
_MOST_LOST = 0.98


@dataclass(frozen=True, slots=True)
class Marks:
    """0/1 values of one arm in a stratum: how many are 1, by null [nulls] or for all, of how many."""

    marked: Floats | float
    number: int

    def growth(self, slope: Floats, pivot: Floats) -> Floats:
        """Sum of log(1 + slope (x - pivot)). `slope` is [2, nulls, bets], `pivot` [nulls]."""
        marked, pivot = np.asarray(self.marked)[..., None], pivot[:, None]
        grown: Floats = marked * np.log1p(slope * (1 - pivot)) + (self.number - marked) * np.log1p(-slope * pivot)
        return grown


@dataclass(frozen=True, slots=True)
class Sums:
    """Values in [0, 1] of one arm in a stratum, by their number, sum and sum of squares."""

    number: int
    total: float
    squares: float

    def growth(self, slope: Floats, pivot: Floats) -> Floats:
        """A lower bound of the sum of log(1 + slope (x - pivot)), close where slopes are small.

        log(1 + z) >= z - z^2 (-log(1 - q) - q) / q^2 for z >= -q (Fan, Grama & Liu 2015, lemma 4.1). It needs no value
        by itself, so a stratum of any size costs the same.
        """
        pivot = pivot[:, None]
        worst = np.clip(np.maximum(slope * pivot, slope * (pivot - 1)), 1e-6, None)
        spread = self.squares - 2 * pivot * self.total + self.number * pivot**2
        curvature = (-np.log1p(-worst) - worst) / worst**2
        grown: Floats = slope * (self.total - self.number * pivot) - slope**2 * spread * curvature
        return grown


class Bets:
    """Capital betted on each of some nulls from both sides: [2 sides, nulls, bets], one unit for each side and null.

    Side `ABOVE` bets against "the difference is at most d", side `BELOW` against "at least d". The unit is paid in by
    equal parts, one a step of the rollout: a harm that begins late then meets capital that the good times before have
    not eaten up. Capital not yet paid in is kept as it is, so their sum is an e-process still.
    """

    def __init__(self, num_nulls: int, stakes: Floats, num_deposits: int, deposits: int = 1) -> None:
        self._stakes, self._num_deposits, self._deposits = stakes, num_deposits, 0
        self._log_wealth = np.full((2, num_nulls, len(stakes)), -np.inf)
        self._log_e_values: Floats | None = None
        for _ in range(deposits):
            self.deposit()

    @property
    def deposits(self) -> int:
        """Parts paid in so far."""
        return self._deposits

    def deposit(self) -> None:
        """Pay in the next part; without effect after the last."""
        if self._deposits < self._num_deposits:
            self._deposits += 1
            self._log_wealth = np.logaddexp(self._log_wealth, np.log(self._stakes / self._num_deposits))
            self._log_e_values = None

    def log_e_values(self) -> Floats:
        """Logarithms of the e-values, [2 sides, nulls]."""
        if self._log_e_values is None:
            kept = (self._num_deposits - self._deposits) / self._num_deposits
            top = self._log_wealth.max(axis=2)
            betted = top + np.log(np.exp(self._log_wealth - top[..., None]).sum(axis=2))
            self._log_e_values = np.logaddexp(betted, math.log(kept)) if kept else betted
        return self._log_e_values

    def state(self) -> dict[str, Any]:
        return {"deposits": self._deposits, "log_wealth": self._log_wealth.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; ValueError where it is of another grid."""
        wealth = np.asarray(state["log_wealth"], np.float64).reshape(len(state["log_wealth"]), -1, len(self._stakes))
        if wealth.shape != self._log_wealth.shape or not np.isfinite(wealth).all():
            raise ValueError(f"log_wealth of shape {wealth.shape}, {self._log_wealth.shape} finite numbers needed")
        deposits = int(state["deposits"])
        if not 1 <= deposits <= self._num_deposits:
            raise ValueError(f"{deposits} deposits of {self._num_deposits}")
        self._log_wealth, self._deposits, self._log_e_values = wealth, deposits, None

    def _grow(self, growth: Floats) -> None:
        self._log_wealth = self._log_wealth + growth
        self._log_e_values = None


class MeanBets(Bets):
    """Bets on the difference of the arms' means, of independent requests."""

    def __init__(self, differences: Floats, num_deposits: int, deposits: int = 1) -> None:
        self._differences = differences
        super().__init__(len(differences), _ODDS_STAKES, num_deposits, deposits)

    def settle(
        self, canary: Marks | Sums, primary: Marks | Sums, centre: Floats | float = 0.0, boldness: float = 1.0
    ) -> None:
        """Settle one stratum.

        Args:
            canary, primary: their values; each arm has at least one.
            centre: c, about where the primary's mean is, [nulls] or for all; chosen before the stratum was seen.
            boldness: by how much the bets are larger than for 0/1 values; likewise.
        """
        share = canary.number / (canary.number + primary.number)
        centre = np.broadcast_to(np.asarray(centre, np.float64), self._differences.shape)
        slope = _slopes(share, centre, self._differences, boldness)
        grown = canary.growth((1 - share) * slope, centre + self._differences)
        self._grow(grown + primary.growth(-share * slope, centre))


class ScoreBets(Bets):
    """Bets on scores of whole strata."""

    def __init__(self, num_nulls: int, num_deposits: int) -> None:
        super().__init__(num_nulls, _FRACTION_STAKES, num_deposits)

    def settle(self, scores: Floats) -> None:
        """Settle one stratum; `scores` lie in [-1, 1], [nulls], and are above 0 where the canary has more."""
        signed = np.stack([scores, -scores])[..., None]
        self._grow(np.log1p(_FRACTIONS * signed))


def _slopes(share: float, centre: Floats, differences: Floats, boldness: float) -> Floats:
    """t of each bet, [2 sides, nulls, bets], so that no request loses more than `_MOST_LOST` of a stake."""
    odds = np.stack([_ODDS_RATIOS, 1 / _ODDS_RATIOS])[:, None, :]
    wanted = boldness * (odds - 1) / (1 + share * (odds - 1))
    top = centre + differences
    limits = np.stack(
        [
            np.maximum((1 - share) * top, share * (1 - centre)),
            np.maximum((1 - share) * (1 - top), share * centre),
        ]
    )
    largest = _MOST_LOST / np.maximum(limits, 1e-9)[..., None]
    slopes: Floats = np.clip(wanted, -largest, largest)
    return slopes
