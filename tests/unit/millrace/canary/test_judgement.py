"""All tests together over a rollout: verdicts, steps, and a state that goes on where it was."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.canary import CANARY, CanaryTest, Observations
from millrace.errors import ConflictError, DataError
from millrace.spec.rollout import RolloutSpec, StepSpec, ToleranceSpec

SPEC = RolloutSpec(steps=[StepSpec(share=0.3, min_requests=1500), StepSpec(share=0.5, min_requests=1500)])


def arm(rng: np.random.Generator, number: int, failing: float = 0.01, slower: float = 1.0) -> Observations:
    return Observations(
        number,
        int(rng.binomial(number, failing)),
        rng.lognormal(3, 0.5, number) * slower,
        rng.random(number),
        rng.random(number) ** 2,
    )


def play(test: CanaryTest, polls: int, seed: int = 0, **harm: float) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(polls):
        test.update(arm(rng, 40, **harm), arm(rng, 80))


def test_a_good_canary_is_undecided_until_the_step_has_its_requests_and_then_sound_so_far() -> None:
    test = CanaryTest(SPEC)
    assert all("nothing to compare yet" in reason for reason in test.verdict().reasons)
    play(test, 12)
    assert {finding.standing for finding in test.findings()} == {"undecided"}
    play(test, 13, seed=1)
    assert {finding.standing for finding in test.findings()} == {"sound so far"}
    verdict = test.verdict()
    assert verdict.passed
    assert verdict.gate == CANARY
    assert len(verdict.reasons) == 4
    assert verdict.evidence["requests_in_step"] == test.step_requests == 25 * 120
    json.dumps(verdict.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("harm", "metric"), [({"failing": 0.1}, "failures"), ({"slower": 2.0}, "latency")])
def test_a_bad_canary_fails_with_the_metric_that_is_bad(harm: dict[str, float], metric: str) -> None:
    test = CanaryTest(SPEC)
    play(test, 100, **harm)
    verdict = test.verdict()
    assert not verdict.passed
    assert verdict.metric == metric
    assert verdict.observed is not None
    assert verdict.threshold is not None
    assert verdict.observed > verdict.threshold
    told = verdict.evidence["tests"][metric]
    assert told["standing"] == "breach"
    assert told["p_value"] <= told["alpha"] == 0.0025
    assert told["e_value"] >= 400
    assert verdict.reasons[0].startswith(f"{metric}: breach; ")
    assert [each["standing"] for name, each in verdict.evidence["tests"].items() if name != metric] == [
        "sound so far"
    ] * 3


def test_a_breach_stays_one_when_the_canary_recovers() -> None:
    test = CanaryTest(SPEC)
    play(test, 10, failing=0.1)
    assert not test.verdict().passed
    play(test, 300, seed=1, failing=0.0)
    found = test.findings()[0]
    assert found.e_value < 1
    assert found.standing == "breach"
    assert not test.verdict().passed


def test_only_the_tests_that_the_spec_names_share_alpha() -> None:
    test = CanaryTest(RolloutSpec(tests=["quality", "failures"]))
    assert [(finding.metric, finding.alpha) for finding in test.findings()] == [("quality", 0.005), ("failures", 0.005)]


def test_steps_end() -> None:
    test = CanaryTest(SPEC)
    play(test, 3)
    test.start_step()
    assert (test.step, test.step_requests) == (1, 0)
    with pytest.raises(ConflictError, match="a rollout has no step after its last one"):
        test.start_step()
    assert test.step == 1


# State


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.booleans())
@settings(max_examples=15, deadline=None)
def test_a_restored_test_goes_on_exactly(seed: int, before: int, stepped: bool) -> None:
    test = CanaryTest(SPEC)
    play(test, before, seed)
    if stepped:
        test.start_step()
    again = CanaryTest.restored(SPEC, json.loads(json.dumps(test.state(), allow_nan=False)))
    assert again.state() == test.state()
    for each in (test, again):
        play(each, 8, seed + 1, failing=0.03)
    assert again.state() == test.state()
    assert again.verdict() == test.verdict()


def test_the_state_stays_small() -> None:
    test = CanaryTest(RolloutSpec())
    play(test, 10)
    early = len(json.dumps(test.state()))
    play(test, 300)
    assert len(json.dumps(test.state())) < early + 20_000 < 150_000


def test_a_state_under_other_rules_is_refused() -> None:
    state = CanaryTest(SPEC).state()
    for change in ({"alpha": 0.05}, {"tolerances": ToleranceSpec(loss=0.1)}, {"tests": ["failures"]}):
        with pytest.raises(DataError, match="not of a rollout under these rules"):
            CanaryTest.restored(SPEC.model_copy(update=change), state)
    longer = SPEC.model_copy(update={"steps": [SPEC.steps[0], StepSpec(share=0.5, min_requests=7, min_seconds=5.0)]})
    assert CanaryTest.restored(longer, state).step == 0


def _without(key: str) -> Any:
    return lambda state: state["tests"]["latency"].pop(key)


@pytest.mark.parametrize(
    "damage",
    [
        _without("bets"),
        _without("open"),
        lambda state: state.update(step=2),
        lambda state: state["tests"].pop("quality"),
        lambda state: state["tests"]["failures"]["bets"].update(log_wealth=[[0.0]]),
        lambda state: state["tests"]["failures"]["bets"].update(deposits=3),
        lambda state: state["tests"]["failures"].update(open=[1, 2]),
        lambda state: state["tests"]["failures"]["means"].update(canary=[1.0, 2.0]),
        lambda state: state["tests"]["predictions"].update(cuts=["a"]),
        lambda state: state["tests"]["predictions"].update(shares=[0.5]),
        lambda state: state["tests"]["latency"].update(histograms=[[[10**6], [1]], [[], []]]),
        lambda state: state["tests"]["latency"].update(peak=None),
        lambda state: state["tests"]["quality"].update(sums=[[1, 2]]),
    ],
)
def test_a_damaged_state_is_refused(damage: Any) -> None:
    test = CanaryTest(SPEC)
    play(test, 8)
    state = json.loads(json.dumps(test.state()))
    damage(state)
    with pytest.raises(DataError, match="the state of a canary test is damaged"):
        CanaryTest.restored(SPEC, state)


@pytest.mark.parametrize("state", [[], None, {}, {"version": 0}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(DataError, match="not of a rollout under these rules"):
        CanaryTest.restored(SPEC, state)
