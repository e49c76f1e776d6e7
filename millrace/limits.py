"""How often a customer may ask: a rate and a burst, kept as one number per customer.

The generic cell rate algorithm (ITU-T I.371, 1996): the moment at which a customer who asked at its rate exactly would
ask next. It says at once how long to wait, holds over any interval, and needs no timer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from millrace.errors import ConfigError

#: A customer that was refused is refused at the ingress for so long, which costs a replica nothing.
HOLD_SECONDS = 0.025
#: Part of the time between two requests that is a matter of floating point, not of the customer.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Limit:
    """`rate` requests a second in the long run, and `burst` of them at once."""

    rate: float
    burst: int

    @classmethod
    def of(cls, rate: float, burst: int | None = None) -> Self:
        """A burst that is not given is a second's worth.

        Raises:
            ConfigError: no rate, or no burst.
        """
        if not (math.isfinite(rate) and rate > 0) or (burst is not None and burst < 1):
            raise ConfigError(
                "this is no limit",
                got=f"{rate:g} requests a second, a burst of {burst}",
                allowed="a rate above 0 and a burst of at least 1",
            )
        return cls(float(rate), burst if burst is not None else max(1, math.ceil(rate)))

    @property
    def outlasts_hold(self) -> bool:
        """Whether what a customer may ask after `HOLD_SECONDS` is still its own: a burst loses nothing by the wait."""
        return self.rate * HOLD_SECONDS <= self.burst

    def as_dict(self) -> dict[str, Any]:
        return {"rate": self.rate, "burst": self.burst}


@dataclass
class Limiter:
    """Counts the requests of one process, which has `share` of each limit: with three replicas, a third.

    Who has no limit of its own has `default`; None is no limit.
    """

    share: float = 1.0
    default: Limit | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _due: dict[str, float] = field(default_factory=dict, init=False)

    def wait_of(self, customer: str) -> float:
        """0 when `customer` may ask now, which counts; else the seconds after which it may ask again."""
        limit = self.limits.get(customer, self.default)
        if limit is None:
            return 0.0
        interval = 1.0 / (limit.rate * self.share)
        ahead = interval * (max(1.0, limit.burst * self.share) - 1.0)
        now = self.clock()
        due = max(self._due.get(customer, now), now)
        if due - now > ahead + interval * _ROUNDING:
            return due - now - ahead
        self._due[customer] = due + interval
        return 0.0
