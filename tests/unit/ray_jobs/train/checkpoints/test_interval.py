"""The interval between saves is the one that loses the least, within its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.train.checkpoints.interval import FailureRate, every_steps, young_daly_seconds

COSTS = st.floats(1e-3, 100.0)


@given(COSTS, st.floats(1e4, 1e7), st.floats(0.1, 10.0))
def test_no_other_interval_loses_less(cost: float, mean: float, factor: float) -> None:
    def lost(interval: float) -> float:
        return cost / interval + interval / (2 * mean)

    best = young_daly_seconds(cost, mean)
    assert lost(best) <= lost(best * factor) * (1 + 1e-9)


@given(COSTS, COSTS, st.floats(1e-3, 100.0), st.integers(0, 1_000), st.floats(0.0, 1e7))
def test_bounds(blocking: float, total: float, step: float, failures: int, seconds: float) -> None:
    steps = every_steps(blocking, total, step, FailureRate().seen(failures, seconds))
    assert steps >= 1
    assert blocking / (steps * step) <= 0.01 * (1 + 1e-9)
    assert steps * step >= total * (1 - 1e-9)


@given(st.integers(0, 100), st.floats(0.0, 1e7))
def test_more_failures_mean_more_saves(failures: int, seconds: float) -> None:
    few, many = FailureRate().seen(failures, seconds), FailureRate().seen(failures + 1, seconds)
    assert few.mean_seconds > many.mean_seconds
    assert every_steps(0.1, 0.1, 1.0, few) >= every_steps(0.1, 0.1, 1.0, many)
