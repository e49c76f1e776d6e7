"""The simulation: queues are first come, first served; counters show what is let in; replicas cost while they live."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.autoscaling.__main__ import compare
from benchmarks.autoscaling.policies import Fixed, Millrace, Oracle, Ray
from benchmarks.autoscaling.simulation import SEATS, Replica, View, simulate
from benchmarks.autoscaling.traces import TRACES, arrivals
from millrace.autoscaling import Service

# What Ray's own modules warn of while they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_replica_answers_one_after_the_other() -> None:
    replica = Replica("r", 0.0, 0.0)
    assert [replica.take(1.0, 0.5), replica.take(1.1, 0.5), replica.take(3.0, 0.5)] == [1.5, 2.0, 3.5]
    assert (replica.connections(1.2), replica.connections(1.7), replica.connections(9.0)) == (3, 2, 0)
    told = replica.reading(2.0)
    assert (told.arrivals_total, told.answered_total, told.in_flight) == (2, 2, 0)
    assert (told.busy_seconds_total, told.busy_squares_total) == (1.0, 0.5)


def test_what_finds_no_seat_is_not_seen() -> None:
    replica = Replica("r", 0.0, 0.0)
    for _ in range(SEATS + 10):
        replica.take(1.0, 1.0)
    assert replica.reading(1.5).arrivals_total == SEATS
    assert replica.reading(3.5).arrivals_total == SEATS + 2
    assert replica.connections(3.5) == SEATS + 8


def test_a_fixed_number_costs_its_seconds_and_waits_as_theory_says() -> None:
    rng = np.random.default_rng(1)
    moments = arrivals(np.full(2000, 25.0), rng)
    outcome = simulate(moments, rng.exponential(0.02, len(moments)), Fixed(1), warm_up=lambda: 5.0, first=1)
    assert outcome.latencies.mean() == pytest.approx(0.04, rel=0.1)  # M/M/1 at one half: twice the service
    assert outcome.replica_seconds == pytest.approx(2000, rel=0.01)
    assert (outcome.changes, outcome.most_replicas) == (0, 1)


def test_a_replica_takes_requests_only_when_it_has_come_up_and_costs_from_its_start() -> None:
    def two(view: View) -> int:
        return 2

    moments = np.arange(0.05, 20.0, 0.1)
    outcome = simulate(moments, np.full(len(moments), 0.15), two, warm_up=lambda: 10.0, first=1)
    assert outcome.latencies[95] > 3.0
    assert outcome.replica_seconds > 39
    assert outcome.changes == 1


def test_the_oracle_is_in_time() -> None:
    rates = np.repeat([20.0, 200.0, 20.0], 60)
    oracle = Oracle(rates, Service(0.02), 0.3, 8.0)
    assert oracle(View(49.0, [], 1, 1, 40)) == 1
    assert oracle(View(51.0, [], 1, 1, 40)) > 4


def test_both_policies_grow_under_a_load_that_one_replica_cannot_bear() -> None:
    rng = np.random.default_rng(1)
    moments = arrivals(np.full(90, 120.0), rng)
    for policy in (Millrace(0.1, 30.0), Ray()):
        outcome = simulate(moments, np.full(len(moments), 0.02), policy, warm_up=lambda: 3.0, first=1)
        assert outcome.most_replicas >= 3
    assert Ray()._config.upscale_delay_s == 30.0


def test_all_are_compared_on_the_same_requests() -> None:
    found = compare(np.full(40, 30.0), np.full(100, 0.02), 0.2, 5.0)
    assert {row["requests"] for row in found.values()} == {found["oracle"]["requests"]}
    assert list(found) == ["millrace", "ray, defaults", "ray, tuned", "fixed at the peak's need", "oracle"]


def test_loads_are_what_they_say() -> None:
    loads = {name: rates() for name, rates in TRACES.items()}
    assert loads["burst"].max() == 5 * loads["burst"].min()
    assert set(loads["on and off"]) == {0.0, 240.0}
    assert len(loads["flights"]) == 1440
    assert loads["flights"].sum() == 4 * 27_973  # departures of March 2013 that were not cancelled
    one, same = (arrivals(loads["wave"], np.random.default_rng(3)) for _ in range(2))
    assert (one == same).all()
    assert (np.diff(one) >= 0).all()
