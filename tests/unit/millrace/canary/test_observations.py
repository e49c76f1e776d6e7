"""What cannot have happened is refused; what a broken model says is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millrace.canary import Observations
from millrace.errors import DataError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"requests": 1, "failures": 2}, "allowed: 0 <= failures <= requests"),
        ({"requests": 1, "failures": -1}, "contradict each other"),
        ({"requests": 2, "latencies_ms": [5.0, -1.0]}, "1 of 2 latencies_ms of a canary's observations are impossible"),
        ({"requests": 2, "latencies_ms": [float("nan")]}, "allowed: finite numbers from 0 on"),
        ({"requests": 2, "latencies_ms": [float("inf")]}, "got: inf"),
        ({"requests": 2, "losses": [0.5, 1.5]}, "next: scale losses to"),
        ({"requests": 2, "losses": [float("nan")]}, "allowed: numbers in"),
    ],
)
def test_impossible_values_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Observations(**given)


def test_lists_become_arrays_and_nothing_is_needed_but_the_count() -> None:
    found = Observations(3, latencies_ms=[1, 2])  # type: ignore[arg-type]
    assert found.latencies_ms.dtype == np.float64
    assert [len(values) for values in (found.latencies_ms, found.predictions, found.losses)] == [2, 0, 0]


def test_predictions_that_are_no_numbers_lie_above_all_others() -> None:
    found = Observations(4, predictions=np.array([np.nan, np.inf, -np.inf, 0.5])).predictions
    assert np.isfinite(found).all()
    assert (found[:2] > 1e300).all()
    assert found[2] < -1e300
