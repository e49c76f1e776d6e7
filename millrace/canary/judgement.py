"""A canary against the primary, by all metrics together, over a whole rollout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace.canary.findings import BREACH, Finding, find
from millrace.canary.latency import Latency
from millrace.canary.observations import Observations
from millrace.canary.predictions import Predictions
from millrace.canary.rates import Failures, Quality
from millrace.errors import ConflictError, DataError
from millrace.spec.rollout import CanaryMetric, RolloutSpec, StepSpec
from millrace.verdict import Verdict

CANARY = "canary"
_STATE = 1


class CanaryTest:
    """The tests of one rollout. `update` after each poll, `verdict` whenever one likes, `start_step` at a new share.

    However often it is asked, a canary that is not worse than tolerated is called a breach in at most `alpha` of all
    rollouts: each metric has its even part of it. That holds if the router draws for each request anew which version
    answers it, whatever traffic and latency do over time. It does not hold where callers stay with one version (their
    requests are then no independent draws), nor for bursts that one arm has alone: those are differences.

    One update must not hold observations from before and after a change of the share.
    """

    def __init__(self, spec: RolloutSpec) -> None:
        self._spec = spec
        self._comparisons = [_comparison(spec, metric) for metric in spec.tests]
        self._step = 0
        self._step_requests = 0

    @property
    def step(self) -> int:
        """Number of the step, from 0."""
        return self._step

    @property
    def step_requests(self) -> int:
        """Requests of both arms since the step began."""
        return self._step_requests

    @property
    def _current(self) -> StepSpec:
        return self._spec.steps[self._step]

    def update(self, canary: Observations, primary: Observations) -> None:
        """Take what both arms did since the last look."""
        self._step_requests += canary.requests + primary.requests
        for comparison in self._comparisons:
            comparison.observe(canary, primary)

    def start_step(self) -> None:
        """The canary has its next share; what was observed before it has been given to `update`.

        Raises:
            ConflictError: the last step is there already.
        """
        if self._step + 1 >= len(self._spec.steps):
            raise ConflictError(
                "a rollout has no step after its last one",
                got=f"step {self._step + 1} of {len(self._spec.steps)}",
                next="complete the rollout instead",
            )
        self._step += 1
        self._step_requests = 0
        for comparison in self._comparisons:
            comparison.start_step(self._current.share)

    def findings(self) -> list[Finding]:
        """What each test has found, in the order of the spec."""
        alpha = self._spec.alpha_per_test
        enough = self._step_requests >= self._current.min_requests
        return [find(each.metric, each.evidence(alpha), alpha, enough) for each in self._comparisons]

    def verdict(self) -> Verdict:
        """Passed unless there is a breach. The metric is that with the most evidence against the canary."""
        findings = self.findings()
        worst = min(findings, key=lambda finding: finding.p_value)
        return Verdict(
            gate=CANARY,
            passed=all(finding.standing != BREACH for finding in findings),
            metric=worst.metric,
            observed=worst.observed,
            threshold=worst.threshold,
            reasons=tuple(finding.reason for finding in sorted(findings, key=lambda finding: finding.p_value)),
            evidence={
                "step": self._step,
                "requests_in_step": self._step_requests,
                "alpha": self._spec.alpha,
                "tests": {finding.metric: finding.as_dict() for finding in findings},
            },
        )

    def state(self) -> dict[str, Any]:
        """Plain JSON of bounded size; `restored` goes on exactly here."""
        return {
            "version": _STATE,
            "rules": _rules(self._spec),
            "step": self._step,
            "step_requests": self._step_requests,
            "tests": {comparison.metric: comparison.state() for comparison in self._comparisons},
        }

    @classmethod
    def restored(cls, spec: RolloutSpec, state: Mapping[str, Any]) -> CanaryTest:
        """The test that gave `state`.

        Raises:
            DataError: it is damaged, or of a rollout under other rules, whose evidence does not count under these.
        """
        test = cls(spec)
        if not isinstance(state, Mapping) or state.get("rules") != _rules(spec) or state.get("version") != _STATE:
            raise DataError(
                "the state of a canary test is not of a rollout under these rules",
                got=state.get("rules") if isinstance(state, Mapping) else type(state).__name__,
                allowed=str(_rules(spec)),
                next="go on under the rollout section with which it began, or begin anew",
            )
        try:
            test._step, test._step_requests = int(state["step"]), int(state["step_requests"])
            if not 0 <= test._step < len(spec.steps):
                raise ValueError(f"step {test._step} of {len(spec.steps)}")
            for comparison in test._comparisons:
                comparison.restore(state["tests"][comparison.metric])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(
                "the state of a canary test is damaged", got=f"{type(error).__name__}: {error}", next="begin anew"
            ) from error
        return test


def _comparison(spec: RolloutSpec, metric: CanaryMetric) -> Failures | Latency | Predictions | Quality:
    tolerances, num_steps = spec.tolerances, len(spec.steps)
    match metric:
        case "failures":
            return Failures(tolerances.failed_share, num_steps)
        case "latency":
            return Latency(tolerances.p95_ratio, num_steps, spec.steps[0].share)
        case "predictions":
            return Predictions(tolerances.prediction_share, num_steps)
        case "quality":
            return Quality(tolerances.loss, num_steps)


def _rules(spec: RolloutSpec) -> dict[str, Any]:
    """What the evidence depends on."""
    rules: dict[str, Any] = {"alpha": spec.alpha, "num_steps": len(spec.steps), "tests": list(spec.tests)}
    return rules | {"tolerances": spec.tolerances.model_dump()}
