"""The arithmetic of the serving benchmark."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.figures import latencies, quantile, shares, spread
from benchmarks.serving.load import Closed
from benchmarks.serving.throughput import Measured, summary

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_and_enough_are_not_above_it(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) <= share * len(values)


def test_quantiles_of_a_hundred_and_of_none() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert math.isnan(quantile([], 0.5))


def test_latencies_are_in_milliseconds() -> None:
    found = latencies([0.001 * number for number in range(1, 1001)])
    assert found == {"p50_ms": 500, "p99_ms": 990, "p999_ms": 999, "max_ms": 1000}
    assert latencies([])["p99_ms"] is None


@given(VALUES)
def test_a_spread_is_in_order(values: list[float]) -> None:
    found = spread(values)
    assert found["min"] <= found["median"] <= found["max"]


def test_shares_are_taken_round_by_round() -> None:
    assert shares([10, 30], [20, 30]) == [0.5, 1.0]
    with pytest.raises(ValueError, match="longer"):
        shares([1], [1, 2])


def test_the_summary_compares_each_round_with_its_own() -> None:
    # The machine is half as fast in the second round; in the third FastAPI alone is slow.
    slow = (1.0, 0.5, 1.0)
    measured = _measured(
        millrace=[600 * factor for factor in slow],
        fastapi=[1000, 500, 600],
        ray_haproxy=[800 * factor for factor in slow],
        mlserver=[500 * factor for factor in slow],
        litserve=[300 * factor for factor in slow],
    )
    found = summary(measured)
    assert found["share_of_fastapi_c16"] == 0.6
    assert found["throughput"]["shares_c16"]["of_fastapi"] == {"median": 0.6, "min": 0.6, "max": 1.0}
    assert found["share_of_bare_ray_c16"] == 0.75
    assert (found["share_of_fastest_server_c16"], found["servers_compared"]) == (1.2, 2)
    assert found["peers"]["millrace"] == {"c1": 600, "c16": 600, "c64": 600}
    # Half a millisecond each at full speed: 1000 / rate is the p50 of these.
    assert found["added_p50_ms_c1"] == round(1000 / 600 - 1000 / 800, 3)
    assert found["throughput"]["fastapi"]["c1"]["failed"] == 3


def _measured(**rates: list[float]) -> Measured:
    return {
        name: {count: [Closed(rate, 1000 / rate, 2000 / rate, 1) for rate in found] for count in (1, 16, 64)}
        for name, found in rates.items()
    }
