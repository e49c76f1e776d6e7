"""The formulas against known values and against queues played out; the fewest servers grow with the load."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.autoscaling import Service, fewest_servers, late_share
from millrace.autoscaling.queueing import LATE_SHARE, MOST_USED, erlang_c, mean_wait


def test_erlangs_formula() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-4)  # a table's
    assert erlang_c(5, 0.0) == 0.0


def test_one_server_waits_as_pollaczek_and_khinchine_say() -> None:
    for variation in (0.0, 0.5, 1.0, 3.0):
        expected = 0.6 * 0.1 * (1 + variation) / 2 / (1 - 0.6)
        assert mean_wait(1, 6.0, Service(0.1, variation)) == pytest.approx(expected)
    assert mean_wait(1, 10.0, Service(0.1)) == np.inf


@pytest.mark.parametrize(("servers", "rate", "variation"), [(1, 25.0, 1.0), (3, 110.0, 1.0), (3, 110.0, 0.25)])
def test_late_answers_are_as_in_a_queue_that_is_played_out(servers: int, rate: float, variation: float) -> None:
    rng, count, service = np.random.default_rng(3), 60_000, Service(0.02, variation)
    spread = np.sqrt(np.log1p(variation))
    times = 0.02 * rng.lognormal(-(spread**2) / 2, spread, count)
    free, now, taken = [0.0] * servers, 0.0, np.empty(count)
    for place, gap in enumerate(rng.exponential(1 / rate, count)):
        now += gap
        end = max(now, heapq.heappop(free)) + times[place]
        heapq.heappush(free, end)
        taken[place] = end - now
    for target in (0.05, 0.1):
        assert late_share(servers, rate, service, target) == pytest.approx((taken > target).mean(), rel=0.35, abs=0.004)


def test_a_target_is_kept_by_the_fewest_servers_only() -> None:
    service = Service(0.02, 0.25)
    found = fewest_servers(150.0, service, 0.1, 100)
    assert late_share(found, 150.0, service, 0.1) <= LATE_SHARE < late_share(found - 1, 150.0, service, 0.1)


def test_a_target_that_nobody_can_keep_is_left_aside() -> None:
    service = Service(0.2, 0.25)
    assert fewest_servers(20.0, service, 0.1, 100) == fewest_servers(20.0, service, None, 100) < 100


def test_large_deployments_are_used_more() -> None:
    service = Service(0.02)
    used = [rate * 0.02 / fewest_servers(rate, service, None, 1000) for rate in (20.0, 200.0, 2000.0)]
    assert used == sorted(used)
    assert used[-1] > 0.8


RATES = st.floats(0, 5000)
SERVICES = st.builds(Service, st.floats(1e-4, 5), st.floats(0, 10))
TARGETS = st.one_of(st.none(), st.floats(1e-3, 100))


@given(RATES, RATES, SERVICES, TARGETS, st.integers(1, 200))
def test_more_is_never_asked_of_fewer(one: float, other: float, service: Service, target: float, most: int) -> None:
    low, high = (fewest_servers(rate, service, target, most) for rate in sorted((one, other)))
    assert 1 <= low <= high <= most


@given(RATES, SERVICES, TARGETS)
def test_servers_are_never_used_up(rate: float, service: Service, target: float) -> None:
    found = fewest_servers(rate, service, target, 400)
    assert found == 400 or rate * service.mean_seconds <= MOST_USED * found
