"""The rollout section: its defaults, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millrace.spec.rollout import RolloutSpec, StepSpec

STEP = {"share": 0.1, "min_requests": 10}


def test_the_default_grows_to_half_of_the_traffic_and_splits_alpha_evenly() -> None:
    spec = RolloutSpec()
    assert [step.share for step in spec.steps] == [0.01, 0.05, 0.25, 0.5]
    assert 20_000 <= sum(step.min_requests for step in spec.steps) <= 50_000
    assert spec.alpha_per_test == pytest.approx(0.0025)
    assert RolloutSpec(tests=["failures"], alpha=0.05).alpha_per_test == 0.05
    assert RolloutSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": []}, "at least 1 item"),
        ({"steps": [STEP, STEP]}, "steps go from share 0.1 to 0.1; list the shares in growing order, each once"),
        ({"steps": [STEP | {"share": 0.5}, STEP]}, "steps go from share 0.5 to 0.1"),
        ({"steps": [STEP | {"share": 1.0}]}, "less than 1"),
        ({"steps": [STEP | {"min_requests": 0}]}, "greater than or equal to 1"),
        ({"tests": []}, "at least 1 item"),
        ({"tests": ["latency", "latency"]}, "tests are listed twice: latency; remove the repeats"),
        ({"tests": ["speed"]}, "'failures', 'latency', 'predictions' or 'quality'"),
        ({"alpha": 0.0}, "greater than 0"),
        ({"tolerances": {"p95_ratio": 0.9}}, "greater than or equal to 1"),
        ({"tolerance": {}}, "Extra inputs are not permitted"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RolloutSpec.model_validate(change)


def test_a_step_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StepSpec(share=0.1, min_requests=1).share = 0.2  # type: ignore[misc]
