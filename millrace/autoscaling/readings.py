"""What a replica tells of itself: a few numbers that it counts since it started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Reading:
    """A replica's counters at `time` (Unix seconds by its own clock). What ends in `_total` only grows while it lives.

    arrivals_total: requests that came in, whatever became of them.
    answered_total: requests that are done with.
    busy_seconds_total: seconds in which the process worked on requests; seconds of two at once count once.
    busy_squares_total: sum over requests of their busy seconds squared, which tells how much these differ.
    cpu_seconds_total: processor seconds of the thread that serves, with all that surrounds a request; 0: not known.
    in_flight: requests that came in and are not done with.
    warm_up_seconds: from the replica's construction to its first loaded version; 0: not known.
    """

    time: float
    arrivals_total: float
    answered_total: float
    busy_seconds_total: float
    busy_squares_total: float
    cpu_seconds_total: float = 0.0
    in_flight: float = 0.0
    warm_up_seconds: float = 0.0

    @classmethod
    def of(cls, time: float, metrics: Mapping[str, Any]) -> Self | None:
        """The reading in `metrics`; None where a counter is missing, or a value is no finite number from 0 on."""
        values: dict[str, float] = {"time": time}
        for field in _COUNTED:
            value = metrics.get(field.name, 0.0 if field.name in _OPTIONAL else math.nan)
            try:
                values[field.name] = float(value)
            except (TypeError, ValueError):
                return None
        if not all(math.isfinite(value) and value >= 0 for value in values.values()):
            return None
        return cls(**values)

    def as_metrics(self) -> dict[str, float]:
        """What `of` takes, without the time."""
        return {name: value for name, value in asdict(self).items() if name != "time"}


_COUNTED = fields(Reading)[1:]
_OPTIONAL = ("cpu_seconds_total", "in_flight", "warm_up_seconds")

#: The keys under which a replica tells its readings.
KEYS: tuple[str, ...] = tuple(field.name for field in _COUNTED)
