"""Bounds from a grid of nulls, and how they are told."""

from __future__ import annotations

import numpy as np
import pytest

from millrace.canary.comparison import Means, between, lower_bound, upper_bound

GRID = np.array([-1.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("log_e", "bound"),
    [
        ([9, 9, 9, 9], 2.0),
        ([9, 9, 1, 0], 0.0),
        ([1, 1, 1, 0], None),
        # A null that falls beyond one that stands would need two true nulls to be watched.
        ([9, 1, 9, 0], -1.0),
        ([1, 9, 9, 9], None),
    ],
)
def test_a_bound_ends_at_the_first_null_that_stands(log_e: list[float], bound: float | None) -> None:
    assert lower_bound(GRID, np.array(log_e), 5.0) == bound
    mirrored = upper_bound(GRID, np.array(log_e)[::-1], 5.0)
    assert mirrored == (None if bound is None else {-1.0: 2.0, 0.0: 1.0, 2.0: -1.0}[bound])


@pytest.mark.parametrize(
    ("lower", "upper", "told"),
    [
        (0.5, 1.25, "+0.5 to +1.25 points"),
        (None, 1.25, "+1.25 points or less"),
        (0.5, None, "+0.5 points or more"),
        (None, None, "not bounded yet"),
    ],
)
def test_an_interval_is_told_with_the_bounds_that_are_known(
    lower: float | None, upper: float | None, told: str
) -> None:
    assert between(lower, upper, "+.3g", " points") == told


def test_the_primarys_mean_is_over_the_canarys_traffic() -> None:
    means = Means(1)
    means.add(1, 10, 90, 990)
    means.add(0, 90, 0, 10)
    assert (means.canary[0], means.primary[0]) == (0.01, pytest.approx(10 * 90 / 990 / 100))
    assert (means.num_canary, means.num_primary) == (100, 1000)
