"""The simulation: the same seed is the same rollout, harm begins when it is said to, and figures are counted right."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.canary import DEFAULT, NULL_ROLLOUTS, PARTS, Outcome, Traffic, World, headline, rollout, summary


def test_a_seed_is_a_rollout() -> None:
    world = World(more_failures=0.05)
    one, same, other = (rollout(DEFAULT, world, (1, number)) for number in (0, 0, 1))
    assert one == same != other
    assert (one.move, one.metric) == ("roll back", "failures")


def test_harm_begins_in_its_step_and_for_the_canary_only() -> None:
    world = World(requests_per_poll=4000, more_failures=0.5, p95_ratio=10.0, harm_from=1)
    traffic = Traffic(world, np.random.default_rng(0))
    before, after = traffic.poll(0.5, 0), traffic.poll(0.5, 1)
    assert max(arm.failures / arm.requests for arm in before) < 0.05
    assert before[0].latencies_ms.mean() == pytest.approx(before[1].latencies_ms.mean(), rel=0.2)
    canary, primary = after
    assert canary.failures / canary.requests > 0.4
    assert primary.failures / primary.requests < 0.05
    assert canary.latencies_ms.mean() > 5 * primary.latencies_ms.mean()
    assert len(canary.latencies_ms) == canary.requests - canary.failures


def test_outcomes_are_counted() -> None:
    found = summary(
        [
            Outcome("roll back", "latency", 2, 100, 900),
            Outcome("roll back", "failures", 1, 300, 900),
            Outcome("complete", None, 3, 500, 500),
            Outcome("undecided", None, 0, 1, 1),
        ]
    )
    assert (found["rolled_back_share"], found["undecided"]) == (0.5, 1)
    assert found["rolled_back_for"] == {"latency": 1, "failures": 1}
    assert found["rolled_back_in_step"] == {"1": 1, "2": 1}
    assert found["canary_requests_to_roll_back"] == {"p50": 200, "p90": 280}
    assert summary([Outcome("complete", None, 3, 5, 5)])["canary_requests_to_roll_back"] is None


def test_the_goals_are_of_all_nulls_and_of_the_weakest_latency() -> None:
    power = {"errors +1 point": 0.99, "p95 +20 %, lognormal": 0.98, "p95 +20 %, bimodal": 0.96}
    found = headline(
        {
            "null a": {"rollouts": 100, "rolled_back": 1},
            "null b": {"rollouts": 300, "rolled_back": 1},
            "power": {name: {"rolled_back_share": share} for name, share in power.items()} | {"date": "today"},
        }
    )
    assert found == {
        "null_rollouts": 400,
        "false_rollback_share": 0.005,
        "power_errors": 0.99,
        "power_latency": 0.96,
        "found_in_95_percent": {},
    }
    assert NULL_ROLLOUTS * sum(name.startswith("null ") for name in PARTS) >= 2000


def test_what_is_found_is_the_least_harm_above_all_that_are_missed() -> None:
    shares = {"errors +1 points": 0.97, "errors +2 points": 0.9, "errors +3 points": 0.95, "p95 +10 %": 0.2}
    found = headline({"detectable x2": {name: {"rolled_back_share": share} for name, share in shares.items()}})
    assert found == {"found_in_95_percent": {"x2": {"errors": "+3 points", "p95": None}}}
