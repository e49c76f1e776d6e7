"""The `training.checkpoint` section: what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millrace.spec.checkpointing import CheckpointSpec


@pytest.mark.parametrize("wrong", [{"every_steps": 0}, {"keep": 0}, {"asynchronous": 1}, {"every_minutes": 3}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CheckpointSpec(**wrong)


def test_without_a_word_the_interval_is_measured() -> None:
    assert CheckpointSpec().every_steps is None
