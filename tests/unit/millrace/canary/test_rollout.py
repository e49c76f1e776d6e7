"""What a rollout does next: each reason to stay, and the one to go back."""

from __future__ import annotations

from millrace.canary import CanaryTest, Observations, decide
from millrace.spec.rollout import RolloutSpec, StepSpec

SPEC = RolloutSpec(
    steps=[
        StepSpec(share=0.25, min_requests=400, min_seconds=10),
        StepSpec(share=0.5, min_requests=200, min_seconds=0),
    ],
    tests=["failures"],
)


def play(test: CanaryTest, failed: int, primary_failed: int = 0) -> None:
    test.update(Observations(100, failed), Observations(100, primary_failed))


def test_a_step_has_its_requests_and_its_seconds_before_the_next() -> None:
    test = CanaryTest(SPEC)
    play(test, 0)
    assert decide(SPEC, test, 99.0).reason == "200 requests in this step, 400 needed"
    play(test, 0)
    assert decide(SPEC, test, 9.0).reason == "9 s in this step, 10 needed"
    assert decide(SPEC, test, 9.0).move == "hold"
    assert decide(SPEC, test, 10.0).move == "advance"
    test.start_step()
    assert decide(SPEC, test, 10.0).move == "hold"
    play(test, 0)
    decision = decide(SPEC, test, 0.0)
    assert decision.move == "complete"
    assert decision.reason == "200 requests at 50% without a breach"


def test_a_suspected_canary_is_held_until_it_is_cleared_or_breaches() -> None:
    cleared, breaching = CanaryTest(SPEC), CanaryTest(SPEC)
    for test in (cleared, breaching):
        play(test, 8)
        play(test, 0)
        decision = decide(SPEC, test, 60.0)
        assert decision.move == "hold"
        assert decision.reason.startswith("suspected: failures: undecided; ")
    for _ in range(6):
        play(cleared, 1, 2)
        play(breaching, 3)
    assert decide(SPEC, cleared, 60.0).move == "advance"
    decision = decide(SPEC, breaching, 60.0)
    assert decision.move == "roll back"
    assert decision.reason.startswith("failures: breach; ")


def test_a_breach_waits_for_nothing() -> None:
    test = CanaryTest(SPEC)
    play(test, 60)
    assert decide(SPEC, test, 1.0).move == "roll back"
