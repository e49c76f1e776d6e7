"""Arithmetic of the figures: quantiles, medians with their spread, shares round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of `values` does not exceed; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def shares(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours of theirs, each round by itself: what slowed the machine in a round slowed both."""
    return [our / their for our, their in zip(ours, theirs, strict=True)]


def latencies(seconds: Sequence[float]) -> dict[str, Any]:
    """Milliseconds: p50, p99, p99.9 and the largest; None of no answers."""
    if not seconds:
        return {"p50_ms": None, "p99_ms": None, "p999_ms": None, "max_ms": None}
    named = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
    return {name: round(quantile(seconds, share) * 1000, 3) for name, share in named.items()}
