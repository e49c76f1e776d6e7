"""What will be asked when a replica that is started now has come up."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Forecast(Protocol):
    """The seam for a better look ahead, one that knows the hour and the weekday say. It may keep what it learns."""

    def rate(self, arrivals: Floats, end: float, horizon_seconds: float) -> float:
        """The most requests a second that are to be expected until `horizon_seconds` after `end`.

        Args:
            arrivals: requests in each of the newest seconds, oldest first, float64 [seconds], at least one.
            end: Unix time at which the newest of them ended.
            horizon_seconds: how far to look.
        """
        ...


#: Seconds of the stretches that a line is laid through.
_STRETCHES = (4, 8, 16, 32, 64)
_SHORTEST = 2
#: Standard deviations (of a Poisson number) by which the newest seconds must differ from a line to disprove it, and
#: by which a line must rise to count as rising. Every second asks anew, so chance must be rare.
_DISPROVED, _RISING = 4.5, 3.0


class LineForecast:
    """Level and trend of the longest stretch, up to a minute, that a straight line still fits.

    Long stretches tell a steady rate from noise, short ones follow a burst at once. Which to trust is not set but
    found: a stretch is given up when the newest seconds differ from its line by more than chance (the adaptive windows
    of Lepski 1990; Bifet & Gavalda 2007, "Learning from time-changing data with adaptive windowing"). A slope counts by
    as much as it is beyond chance, and is carried on for no longer than it was seen.
    """

    def rate(self, arrivals: Floats, end: float, horizon_seconds: float) -> float:
        known = arrivals[np.isfinite(arrivals) & (arrivals >= 0)]
        if not len(known):
            return 0.0
        length, level, slope = self._fit(known)
        at_end = level + slope * (length - 1) / 2
        ahead = max(0.0, slope) * min(max(0.0, horizon_seconds), length)
        return max(0.0, float(at_end + ahead))

    def _fit(self, arrivals: Floats) -> tuple[int, float, float]:
        newest = arrivals[-_SHORTEST:]
        found = (len(newest), float(newest.mean()), 0.0)
        tried = [_SHORTEST]
        for stretch in takewhile(lambda stretch: stretch <= len(arrivals), _STRETCHES):
            line = _line(arrivals[-stretch:])
            if any(_disproves(arrivals[-part:], line, stretch) for part in tried):
                break
            found = (stretch, *line)
            tried.append(stretch)
        return found


def _line(arrivals: Floats) -> tuple[float, float]:
    """Mean, and slope a second as far as it is beyond chance."""
    length, mean = len(arrivals), float(arrivals.mean())
    places = np.arange(length) - (length - 1) / 2
    squares = float(places @ places)
    slope = float(places @ arrivals) / squares
    chance = _RISING * math.sqrt(max(mean, 1 / length) / squares)
    return mean, math.copysign(max(0.0, abs(slope) - chance), slope)


def _disproves(newest: Floats, line: tuple[float, float], stretch: int) -> bool:
    mean, slope = line
    part = len(newest)
    expected = max(0.0, part * (mean + slope * (stretch - part) / 2))
    return abs(float(newest.sum()) - expected) > _DISPROVED * math.sqrt(max(expected, 1.0))
