"""The line follows a burst at once, carries a ramp on, and is not led astray by noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.autoscaling import Forecast, LineForecast

LINE: Forecast = LineForecast()


def test_a_steady_rate_stays() -> None:
    assert LINE.rate(np.full(100, 50.0), 0.0, 10.0) == pytest.approx(50.0)
    assert LINE.rate(np.array([50.0]), 0.0, 10.0) == 50.0
    assert LINE.rate(np.zeros(30), 0.0, 10.0) == 0.0


def test_a_burst_is_seen_after_two_seconds() -> None:
    past = np.concatenate([np.full(60, 80.0), np.full(2, 400.0)])
    assert LINE.rate(past, 0.0, 10.0) >= 400.0


def test_the_end_of_a_burst_is_seen_after_two_seconds() -> None:
    past = np.concatenate([np.full(60, 400.0), np.full(2, 80.0)])
    assert LINE.rate(past, 0.0, 10.0) == pytest.approx(80.0)


def test_a_ramp_is_carried_on() -> None:
    past = 100.0 + 2 * np.arange(64)
    assert LINE.rate(past, 0.0, 10.0) == pytest.approx(past[-1] + 20, rel=0.05)
    assert LINE.rate(past, 0.0, 0.0) == pytest.approx(past[-1], rel=0.05)


def test_a_fall_is_not_carried_on() -> None:
    past = 300.0 - 2 * np.arange(64)
    assert LINE.rate(past, 0.0, 60.0) == pytest.approx(past[-1], rel=0.07)


@pytest.mark.parametrize("rate", [1.0, 20.0, 300.0])
def test_noise_moves_the_rate_by_little(rate: float) -> None:
    rng = np.random.default_rng(1)
    found = np.array([LINE.rate(rng.poisson(rate, 64).astype(float), 0.0, 10.0) for _ in range(300)])
    assert np.quantile(np.abs(found - rate), 0.95) <= 3 * np.sqrt(rate / 64)


@given(
    st.lists(st.one_of(st.floats(0, 1e6), st.just(np.nan), st.just(-1.0), st.just(np.inf)), min_size=1, max_size=130),
    st.floats(-10, 1e4),
)
def test_the_rate_is_a_number_from_0_on(past: list[float], horizon: float) -> None:
    rate = LINE.rate(np.array(past), 0.0, horizon)
    assert np.isfinite(rate)
    assert rate >= 0
