"""Arrival patterns: when each request comes, in seconds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def steady(rate: float, seconds: float, seed: int) -> Times:
    """A Poisson process."""
    return _thinned(lambda t: np.full_like(t, rate), rate, seconds, seed)


def wave(rate: float, seconds: float, seed: int) -> Times:
    """A rate that goes up and down between 0.2 and 1.8 of its mean, twice."""
    return _thinned(lambda t: rate * (1 + 0.8 * np.sin(4 * np.pi * t / seconds)), 1.8 * rate, seconds, seed)


def on_off(rate: float, seconds: float, seed: int) -> Times:
    """Twice the rate for half a second, nothing for half a second."""
    return _thinned(lambda t: np.where(t % 1.0 < 0.5, 2 * rate, 0.0), 2 * rate, seconds, seed)


def herds(rate: float, seconds: float, seed: int) -> Times:
    """Ten requests at the same moment, the moments at random."""
    return np.repeat(steady(rate / 10, seconds, seed), 10)


PATTERNS: dict[str, Callable[[float, float, int], Times]] = {
    "steady": steady,
    "wave": wave,
    "on_off": on_off,
    "herds": herds,
}


def _thinned(rate_at: Callable[[Times], Times], most: float, seconds: float, seed: int) -> Times:
    """Lewis and Shedler (1979): candidates at the greatest rate, kept with the rate's share of it."""
    chance = np.random.default_rng(seed)
    candidates = np.cumsum(chance.exponential(1 / most, int(most * seconds * 1.2) + 100))
    candidates = candidates[candidates < seconds]
    return candidates[chance.random(len(candidates)) * most < rate_at(candidates)]
