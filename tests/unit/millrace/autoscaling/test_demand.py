"""Counters of replicas that come, go and start again become the load of all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.autoscaling import Demand, History, Reading
from millrace.autoscaling.demand import KEPT_SECONDS


def told(
    time: float, arrivals: float, *, busy: float = 0.0, squares: float = 0.0, cpu: float = 0.0, flying: float = 0.0
) -> Reading:
    return Reading(time, arrivals, arrivals - flying, busy, squares, cpu_seconds_total=cpu, in_flight=flying)


def steady(seconds: int, rate: float, start: float = 100.0, service: float = 0.01) -> list[Reading]:
    return [told(start + n, rate * n, busy=rate * n * service, squares=rate * n * service**2) for n in range(seconds)]


def history_of(**readings: Sequence[Reading]) -> History:
    demand = Demand()
    demand.observe(readings)
    history = demand.history()
    assert history is not None
    return history


def test_the_load_is_the_sum_of_the_replicas() -> None:
    history = history_of(a=steady(11, 30), b=steady(11, 50))
    assert (history.end, history.replicas) == (110.0, 2)
    assert history.arrivals.tolist() == pytest.approx([80.0] * 10)
    service = history.service()
    assert service is not None
    assert (service.mean_seconds, service.squared_variation) == (pytest.approx(0.01), pytest.approx(0.0, abs=1e-9))
    assert history.utilisation(5) == pytest.approx(0.4)


def test_there_is_no_history_before_a_whole_second_was_told() -> None:
    demand = Demand()
    assert demand.history() is None
    demand.observe({"a": []})
    assert demand.history() is None
    demand.observe({"a": [told(100.2, 5)]})
    assert demand.history() is None
    demand.observe({"a": [told(101.2, 9)]})
    assert demand.history() is None
    demand.observe({"a": [told(102.2, 12)]})
    history = demand.history()
    assert history is not None
    assert history.arrivals.tolist() == pytest.approx([0.2 * 4 + 0.8 * 3])


def test_what_a_replica_had_counted_before_it_was_first_seen_is_nobodys() -> None:
    history = history_of(a=[told(100 + n, 1_000_000 + 20 * n) for n in range(5)])
    assert history.arrivals.tolist() == pytest.approx([20.0] * 4)


def test_only_seconds_that_all_have_told_of_are_shown() -> None:
    history = history_of(a=steady(11, 30), b=steady(8, 50))
    assert history.end == 107.0
    assert history.arrivals.tolist() == pytest.approx([80.0] * 7)


def test_a_replica_that_falls_silent_holds_nobody_up() -> None:
    history = history_of(a=steady(30, 30), b=steady(8, 50))
    assert (history.end, history.replicas) == (129.0, 1)
    assert history.arrivals[-1] == pytest.approx(30.0)


def test_a_replica_that_stops_leaves_what_it_counted() -> None:
    demand = Demand()
    demand.observe({"a": steady(6, 30), "b": steady(6, 50)})
    demand.observe({"a": [told(106.0, 180)]})
    history = demand.history()
    assert history is not None
    assert history.arrivals.tolist() == pytest.approx([80.0] * 5 + [30.0])
    assert history.replicas == 1


def test_a_counter_that_falls_has_begun_anew() -> None:
    history = history_of(a=[told(100, 500), told(101, 520), told(102, 7), told(103, 17)])
    assert history.arrivals.tolist() == pytest.approx([20.0, 7.0, 10.0])


def test_a_reading_twice_or_from_before_changes_nothing() -> None:
    readings = steady(6, 30)
    once, twice = history_of(a=readings), history_of(a=[*readings, readings[-1], readings[2]])
    assert once.arrivals.tolist() == twice.arrivals.tolist()


def test_processor_time_counts_where_the_thread_is_busy_and_only_there() -> None:
    busy = history_of(a=[told(100 + n, 100 * n, busy=0.2 * n, squares=0.001 * n, cpu=0.6 * n) for n in range(4)])
    assert busy.utilisation(3) == pytest.approx(0.6)
    service = busy.service()
    assert service is not None
    assert service.mean_seconds == pytest.approx(0.006)
    idle = history_of(a=[told(100 + n, n, busy=0.01 * n, squares=0.0001 * n, cpu=0.2 * n) for n in range(4)])
    assert idle.utilisation(3) == pytest.approx(0.01)


def test_service_times_that_differ_are_seen_to() -> None:
    # Half of the requests take 10 ms and half 30: mean 20, variance 100, so a squared variation of 1/4.
    mean_square = (0.01**2 + 0.03**2) / 2
    history = history_of(a=[told(100 + n, 20 * n, busy=0.4 * n, squares=20 * n * mean_square) for n in range(4)])
    service = history.service()
    assert service is not None
    assert service.squared_variation == pytest.approx(0.25)
    assert history.service(fewest_answered=61) is None


def test_old_seconds_are_forgotten() -> None:
    demand = Demand()
    for n in range(4 * KEPT_SECONDS):
        demand.observe({"a": [told(100 + n, 10 * n)]})
    history = demand.history()
    assert history is not None
    assert len(history.arrivals) == KEPT_SECONDS
    assert len(demand._seconds) <= KEPT_SECONDS + 2


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(-5, 200), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 10)),
        max_size=40,
    )
)
def test_whatever_is_told_no_rate_is_negative(events: list[tuple[str, float, float, float, float]]) -> None:
    demand = Demand()
    for name, time, count, busy, cpu in events:
        reading = Reading.of(time, told(0, count, busy=busy, squares=busy, cpu=cpu).as_metrics())
        demand.observe({name: [reading] if reading else [], "other": []})
        history = demand.history()
        if history is not None:
            sums = np.array([history.arrivals, history.answered, history.busy_seconds, history.busy_squares])
            assert np.isfinite(sums).all()
            assert (sums >= 0).all()


@given(st.lists(st.floats(0.2, 3.0), min_size=16, max_size=40), st.floats(0, 500))
def test_a_steady_rate_is_found_however_reports_fall(gaps: list[float], rate: float) -> None:
    times = 100 + np.cumsum(gaps)
    history = history_of(a=[told(time, rate * (time - 100)) for time in times.tolist()])
    assert history.arrivals.tolist() == pytest.approx([rate] * len(history.arrivals), abs=1e-6)
