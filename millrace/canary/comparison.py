"""What the tests of a canary share: bets, the peak of their e-value, and both arms' means over the same traffic."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from millrace.canary.betting import Bets
from millrace.canary.findings import Evidence
from millrace.canary.observations import Observations
from millrace.spec.rollout import CanaryMetric

Floats = NDArray[np.float64]
AnyBets = TypeVar("AnyBets", bound=Bets)


class Means:
    """Mean of each arm over the strata, the primary's weighted as the canary's requests are: a stretch in which all is
    worse must not count more for the arm that had more of it. [series] each.
    """

    def __init__(self, num_series: int) -> None:
        self._canary, self._primary = np.zeros(num_series), np.zeros(num_series)
        self.num_canary = self.num_primary = 0

    def add(
        self, canary_total: Floats | float, num_canary: int, primary_total: Floats | float, num_primary: int
    ) -> None:
        self._canary = self._canary + canary_total
        self._primary = self._primary + np.asarray(primary_total) * (num_canary / num_primary)
        self.num_canary += num_canary
        self.num_primary += num_primary

    @property
    def canary(self) -> Floats:
        return self._canary / max(self.num_canary, 1)

    @property
    def primary(self) -> Floats:
        return self._primary / max(self.num_canary, 1)

    def state(self) -> dict[str, Any]:
        return {
            "canary": self._canary.tolist(),
            "primary": self._primary.tolist(),
            "num_canary": self.num_canary,
            "num_primary": self.num_primary,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        canary, primary = np.asarray(state["canary"], np.float64), np.asarray(state["primary"], np.float64)
        if canary.shape != self._canary.shape or primary.shape != self._primary.shape:
            raise ValueError(f"means of shapes {canary.shape} and {primary.shape}, {self._canary.shape} needed")
        self._canary, self._primary = canary, primary
        self.num_canary, self.num_primary = int(state["num_canary"]), int(state["num_primary"])


class Comparison(ABC, Generic[AnyBets]):
    """One metric of both arms. `observe` after each poll; `start_step` when the canary's share has changed.

    Polls are put together to strata by their number of requests alone, of both arms together: that says nothing about
    which request went where, so the router's choice within a stratum stays random. A stratum without one of the arms
    compares nothing and is left out. One that is open when the share changes is dropped, as its two parts differ in
    both the share and, perhaps, what was asked.
    """

    metric: ClassVar[CanaryMetric]

    def __init__(self, bets: AnyBets, num_series: int = 1) -> None:
        self._bets = bets
        self._means = Means(num_series)
        self._peak = 0.0

    @abstractmethod
    def observe(self, canary: Observations, primary: Observations) -> None:
        """Take what both arms did since the last look."""

    @abstractmethod
    def log_e(self) -> float:
        """Logarithm of the e-value against "not worse than tolerated"."""

    @abstractmethod
    def _compared(self, log_limit: float) -> Evidence:
        """The numbers once there are some; nulls fall at e-values from exp(`log_limit`) on."""

    @abstractmethod
    def _drop_open(self) -> None:
        """Forget the stratum that is not complete."""

    @abstractmethod
    def _own_state(self) -> dict[str, Any]:
        """What `_restore_own` needs beyond the bets and the means."""

    @abstractmethod
    def _restore_own(self, state: Mapping[str, Any]) -> None:
        """Go on from what `_own_state` gave."""

    def evidence(self, alpha: float) -> Evidence:
        """The numbers so far; bounds at confidence 1 - alpha each."""
        return self._compared(-math.log(alpha)) if self._means.num_canary else Evidence()

    def start_step(self, share: float) -> None:
        """The canary gets `share` of the requests from here on."""
        self._drop_open()
        self._bets.deposit()

    def _look(self) -> None:
        """After a stratum was settled."""
        self._peak = max(self._peak, self.log_e())

    def state(self) -> dict[str, Any]:
        """Plain JSON of bounded size, from which `restore` goes on exactly here."""
        return {"bets": self._bets.state(), "means": self._means.state(), "peak": self._peak} | self._own_state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave; KeyError, TypeError, ValueError or IndexError where it is damaged."""
        self._restore_own(state)
        self._bets.restore(state["bets"])
        self._means.restore(state["means"])
        self._peak = float(state["peak"])


def lower_bound(grid: Floats, log_e: Floats, log_limit: float) -> float | None:
    """The largest value of the ascending `grid` up to which each null "at most this" is rejected; None: not the first.

    Up to the first that stands, not the largest that falls: then a wrong bound needs one true null to be rejected.
    """
    count = int(np.argmin(np.append(log_e >= log_limit, False)))
    return float(grid[count - 1]) if count else None


def upper_bound(grid: Floats, log_e: Floats, log_limit: float) -> float | None:
    """The smallest value of the ascending `grid` from which on each null "at least this" is rejected; None: none."""
    found = lower_bound(-grid[::-1], log_e[::-1], log_limit)
    return None if found is None else -found


def between(lower: float | None, upper: float | None, form: str, unit: str = "") -> str:
    """An interval in words; a bound that is not known is not told."""
    low = None if lower is None else format(lower, form)
    high = None if upper is None else format(upper, form)
    if low is None and high is None:
        return "not bounded yet"
    if high is None:
        return f"{low}{unit} or more"
    return f"{high}{unit} or less" if low is None else f"{low} to {high}{unit}"
