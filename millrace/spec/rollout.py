"""The `rollout` section: how a new version is given traffic step by step, and what sends it back."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from millrace.spec.base import Section

#: What a canary is compared by, in the order in which it is told.
CanaryMetric = Literal["failures", "latency", "predictions", "quality"]


class StepSpec(Section):
    """One share of the traffic, and how long the canary keeps it at the least."""

    share: float = Field(gt=0, lt=1, description="Share of the requests that the canary answers.")
    min_requests: int = Field(ge=1, description="Requests of both versions together before the next step.")
    min_seconds: float = Field(default=60.0, ge=0, description="Seconds before the next step.")


class ToleranceSpec(Section):
    """How much worse than the primary a canary may be. What is within a tolerance is never held against it."""

    failed_share: float = Field(
        default=0.0, ge=0, lt=1, description="Increase of the share of requests that fail (0.01: one point)."
    )
    p95_ratio: float = Field(default=1.05, ge=1, le=10, description="The canary's p95 latency over the primary's.")
    prediction_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of predictions that may be on another side of a cut than before."
    )
    loss: float = Field(default=0.0, ge=0, lt=1, description="Increase of the mean loss, where losses lie in [0, 1].")


def _default_steps() -> list[StepSpec]:
    return [
        StepSpec(share=0.01, min_requests=2_000),
        StepSpec(share=0.05, min_requests=6_000),
        StepSpec(share=0.25, min_requests=12_000),
        StepSpec(share=0.5, min_requests=15_000),
    ]


class RolloutSpec(Section):
    """The canary's way to all traffic. After the last step it gets all of it."""

    steps: list[StepSpec] = Field(
        default_factory=_default_steps, min_length=1, max_length=20, description="Shares in growing order."
    )
    alpha: float = Field(
        default=0.01, gt=0, le=0.2, description="Chance that a canary that is not worse is sent back, per rollout."
    )
    tests: list[CanaryMetric] = Field(
        default=["failures", "latency", "predictions", "quality"],
        min_length=1,
        description="What the canary is compared by; alpha is split evenly among them.",
    )
    tolerances: ToleranceSpec = Field(default_factory=ToleranceSpec, description="What is no harm.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        shares = [step.share for step in self.steps]
        for before, after in pairwise(shares):
            if after <= before:
                raise ValueError(
                    f"steps go from share {before:g} to {after:g}; list the shares in growing order, each once"
                )
        if repeated := sorted({name for name in self.tests if self.tests.count(name) > 1}):
            raise ValueError(f"tests are listed twice: {', '.join(repeated)}; remove the repeats")
        return self

    @property
    def alpha_per_test(self) -> float:
        return self.alpha / len(self.tests)
