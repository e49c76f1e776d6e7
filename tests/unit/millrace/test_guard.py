"""The guard breaches exactly when the numbers say so, and says why."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millrace.guard import FAILED_SHARE, P99_MS, Traffic, judge
from millrace.spec import GuardSpec

SPECS = st.builds(
    GuardSpec,
    min_requests=st.integers(1, 40),
    max_failed_share=st.floats(0, 0.99),
    max_p99_ms=st.none() | st.floats(0.1, 1000),
)
TRAFFIC = st.builds(Traffic, st.integers(0, 60), st.lists(st.floats(0, 2), max_size=60))


@given(SPECS, TRAFFIC)
def test_a_breach_is_a_number_above_its_threshold_and_a_pass_has_none(spec: GuardSpec, traffic: Traffic) -> None:
    verdict = judge(spec, traffic)
    enough = traffic.requests >= spec.min_requests
    failing = enough and traffic.failed > spec.max_failed_share * traffic.requests
    slow = (
        spec.max_p99_ms is not None
        and len(traffic.seconds) >= spec.min_requests
        # More than one in a hundred lies above the limit.
        and sum(second * 1000 > spec.max_p99_ms for second in traffic.seconds) * 100 > len(traffic.seconds)
    )
    assert verdict.passed == (not failing and not slow)
    assert len(verdict.reasons) == max(1, failing + slow)
    if not verdict.passed:
        assert verdict.metric == (FAILED_SHARE if failing else P99_MS)
        assert verdict.observed is not None
        assert verdict.threshold is not None
        assert verdict.observed > verdict.threshold


@given(SPECS, TRAFFIC, st.integers(1, 50))
def test_more_failures_never_turn_a_breach_into_a_pass(spec: GuardSpec, traffic: Traffic, more: int) -> None:
    if not judge(spec, traffic).passed:
        assert not judge(spec, Traffic(traffic.failed + more, traffic.seconds)).passed


@given(SPECS, st.lists(st.floats(0, 2), max_size=60))
def test_without_a_failure_and_a_limit_on_time_nothing_is_a_breach(spec: GuardSpec, seconds: list[float]) -> None:
    assert judge(spec.model_copy(update={"max_p99_ms": None}), Traffic(0, seconds)).passed


def test_the_default_is_on_and_lets_a_few_failures_pass() -> None:
    spec = GuardSpec()
    assert spec.enabled
    assert judge(spec, Traffic(4, [0.01] * 45)).reasons == ("49 requests, 50 needed to judge",)
    assert judge(spec, Traffic(5, [0.01] * 45)).passed
    breach = judge(spec, Traffic(6, [0.01] * 44))
    assert (breach.passed, breach.metric, breach.observed, breach.threshold) == (False, FAILED_SHARE, 0.12, 0.1)
    assert breach.reasons == ("6 of 50 requests failed in 60 s: 12.0%, 10.0% allowed",)
