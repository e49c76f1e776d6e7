"""The serving section: autoscaling is asked for, within bounds."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millrace.spec import AutoscalingSpec, ServingSpec


def test_by_default_the_number_of_replicas_is_fixed() -> None:
    spec = ServingSpec()
    assert (spec.replicas, spec.autoscaling, spec.latency_target_ms) == (1, None, None)


def test_only_the_most_must_be_said() -> None:
    spec = ServingSpec.model_validate({"autoscaling": {"max_replicas": 4}, "latency_target_ms": 50.0})
    assert spec.autoscaling == AutoscalingSpec(min_replicas=1, max_replicas=4, cool_down_seconds=120.0)
    assert ServingSpec.model_validate(spec.model_dump()) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"autoscaling": {}}, "autoscaling.max_replicas\n  Field required"),
        ({"autoscaling": {"min_replicas": 3, "max_replicas": 2}}, "min_replicas 3 is above max_replicas 2; swap them"),
        ({"autoscaling": {"min_replicas": 0, "max_replicas": 2}}, "greater than or equal to 1"),
        ({"autoscaling": {"max_replicas": 2, "cool_down_seconds": 1.0}}, "greater than or equal to 5"),
        ({"latency_target_ms": 0.0}, "greater than 0"),
        ({"customer_quota": 0}, "greater than or equal to 1"),
        ({"trace_days": 0.0}, "greater than 0"),
    ],
)
def test_contradictions_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServingSpec.model_validate(change)
