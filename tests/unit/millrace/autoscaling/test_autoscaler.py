"""The decision: within bounds, up at once, down after a cool-down, and not to and fro."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from millrace.autoscaling import Autoscaler, Forecast, Reading, ScalingDecision
from millrace.autoscaling.readings import KEYS

START = 1_700_000_000.0
SERVICE = 0.02


class World:
    """Replicas that share arrivals evenly and come up `warm_up` seconds after they are wanted; a second a step."""

    def __init__(
        self,
        *,
        cool_down: float = 30.0,
        fewest: int = 1,
        most: int = 20,
        first: int = 1,
        warm_up: int = 5,
        forecast: Forecast | None = None,
    ) -> None:
        self.autoscaler = Autoscaler(0.1, cool_down, forecast)
        self.bounds = (fewest, most)
        self.wanted, self.now = first, START
        self.warm_up = warm_up
        self.ready = [self.now] * first
        self.counters: dict[int, tuple[float, float, float]] = {}
        self.wants = [first]
        self.reasons: list[str] = []

    def step(self, arrivals: float, tells: bool = True) -> ScalingDecision:
        self.now += 1
        running = [number for number, ready in enumerate(self.ready) if ready <= self.now]
        readings = {}
        for number in running:
            came, busy, squares = self.counters.get(number, (0.0, 0.0, 0.0))
            if number in self.counters:
                share = arrivals / len(running)
                came, busy, squares = came + share, busy + share * SERVICE, squares + share * SERVICE**2 * 1.25
            self.counters[number] = (came, busy, squares)
            readings[str(number)] = [Reading(self.now, came, came, busy, squares)] if tells else []
        fewest, most = self.bounds
        decision = self.autoscaler.decide(
            readings, now=self.now + 0.3, running=len(running), wanted=self.wanted, fewest=fewest, most=most
        )
        while len(self.ready) < decision.replicas:
            self.ready.append(self.now + self.warm_up)
        for number in range(decision.replicas, len(self.ready)):
            self.counters.pop(number, None)
        del self.ready[decision.replicas :]
        self.wanted = decision.replicas
        self.wants.append(self.wanted)
        self.reasons.append(decision.reason)
        return decision

    def play(self, arrivals: NDArray[np.float64]) -> list[int]:
        """What was wanted after each second."""
        begin = len(self.wants)
        for number in arrivals.tolist():
            self.step(number)
        return self.wants[begin:]

    @property
    def changes(self) -> int:
        return sum(one != other for one, other in zip(self.wants, self.wants[1:], strict=False))


def test_a_burst_is_answered_within_three_seconds_and_given_back_after_the_cool_down() -> None:
    world = World()
    world.play(np.full(60, 10.0))
    assert world.wanted == 1
    up = world.play(np.full(3, 250.0))
    assert up[-1] >= 6
    assert "requests/s expected" in world.reasons[-1]
    world.play(np.full(60, 250.0))
    held = world.play(np.full(25, 10.0))
    assert min(held) >= 6, "fewer have not been enough for the cool-down yet"
    assert world.play(np.full(40, 10.0))[-1] == 1
    assert "were enough for 30 s" in "".join(world.reasons[-60:])


def test_one_burst_is_few_changes() -> None:
    world, rng = World(), np.random.default_rng(5)
    world.play(rng.poisson(25.0, 120).astype(float))
    before = world.changes
    world.play(rng.poisson(250.0, 60).astype(float))
    world.play(rng.poisson(25.0, 120).astype(float))
    assert world.changes - before <= 10


@pytest.mark.parametrize("rate", [15.0, 60.0, 120.0, 260.0])
def test_a_constant_load_with_its_noise_changes_next_to_nothing(rate: float) -> None:
    world = World()
    rng = np.random.default_rng(8)
    world.play(rng.poisson(rate, 120).astype(float))
    settled = world.changes
    world.play(rng.poisson(rate, 1800).astype(float))
    assert world.changes - settled <= 2


def test_a_ramp_is_met_before_it_arrives() -> None:
    world = World(warm_up=10)
    world.play(np.full(40, 30.0))
    rates = np.linspace(30, 500, 240)
    world.play(rates)
    # What runs is always enough for what is asked by then.
    running = [sum(ready <= START + 1 + 40 + n for ready in world.ready[: world.wants[41 + n]]) for n in range(240)]
    used = rates * SERVICE / np.array(running)
    assert used.max() < 1.0


def test_nothing_known_changes_nothing() -> None:
    world = World(first=4, cool_down=5.0)
    for _ in range(60):
        assert world.step(0.0, tells=False).replicas == 4
    assert "nothing is known" in world.reasons[-1]


def test_a_gap_in_what_is_told_is_no_reason_to_go_down() -> None:
    world = World(first=6, cool_down=20.0)
    world.play(np.full(19, 250.0))
    high = world.wanted
    for _ in range(40):
        assert world.step(0.0, tells=False).replicas == high
    assert world.step(10.0).replicas == high, "the watch holds what it did not see"


def test_nothing_asked_goes_down_to_the_fewest() -> None:
    world = World(first=5, fewest=2, cool_down=20.0)
    assert world.play(np.zeros(60))[-1] == 2


def test_a_new_autoscaler_waits_for_a_whole_cool_down() -> None:
    world = World(first=5, cool_down=30.0)
    world.play(np.full(29, 10.0))
    assert world.wanted == 5
    world.autoscaler = Autoscaler(0.1, 30.0)
    assert world.play(np.full(25, 10.0))[-1] == 5
    assert world.play(np.full(10, 10.0))[-1] == 1


def test_replicas_that_are_used_up_are_doubled_as_the_counters_hide_the_rest() -> None:
    world = World(first=2, warm_up=5)
    # Two can answer 100 a second; more is asked and none of it is counted.
    world.play(np.full(20, 30.0))
    world.play(np.full(6, 99.0))
    assert world.wanted >= 4
    assert any("are used up" in reason for reason in world.reasons)


class Says:
    """A forecast that says one thing."""

    def __init__(self, rate: float) -> None:
        self.said = rate
        self.asked: list[tuple[int, float, float]] = []

    def rate(self, arrivals: NDArray[np.float64], end: float, horizon_seconds: float) -> float:
        self.asked.append((len(arrivals), end, horizon_seconds))
        return self.said


def test_a_forecast_decides_and_is_asked_for_the_warm_up_ahead() -> None:
    forecast = Says(400.0)
    world = World(forecast=forecast)
    world.play(np.full(20, 25.0))
    assert world.wants[-1] >= 9
    _, end, horizon = forecast.asked[0]
    assert end == pytest.approx(START + 2)
    assert horizon == pytest.approx(0.3 + 10.0)


@pytest.mark.parametrize("said", [math.nan, math.inf, -math.inf, -5.0])
def test_a_forecast_that_says_nonsense_is_not_believed(said: float) -> None:
    world = World(forecast=Says(said))
    assert max(world.play(np.full(40, 25.0))) <= 2


def needed(rate: float) -> int:
    world = World(cool_down=5.0, warm_up=1, most=40)
    world.play(np.full(90, rate))
    return world.wanted


def test_more_load_never_needs_fewer() -> None:
    found = [needed(rate) for rate in np.linspace(0, 600, 13).tolist()]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (1, needed(600.0))


LOADS = st.lists(st.one_of(st.floats(0, 2000), st.just(math.nan)), min_size=1, max_size=60)


@given(LOADS, st.integers(1, 5), st.integers(0, 30), st.integers(1, 35))
@settings(max_examples=40)
def test_bounds_hold_whatever_is_asked(loads: list[float], fewest: int, more: int, first: int) -> None:
    world = World(fewest=fewest, most=fewest + more, first=first, cool_down=5.0)
    for load in loads:
        tells = math.isfinite(load)
        assert fewest <= world.step(load if tells else 0.0, tells=tells).replicas <= fewest + more


@given(st.lists(st.tuples(st.floats(-1e9, 2e9), st.floats(0, 1e9), st.integers(0, 9)), min_size=1, max_size=30))
def test_nothing_that_can_be_told_is_an_error(events: list[tuple[float, float, int]]) -> None:
    autoscaler, wanted = Autoscaler(None, 10.0), 3
    for now, value, running in events:
        reading = Reading.of(now, dict.fromkeys(KEYS, value))
        readings = {"a": [reading] if reading else [], "b": []}
        wanted = autoscaler.decide(readings, now=now, running=running, wanted=wanted, fewest=1, most=9).replicas
        assert 1 <= wanted <= 9
