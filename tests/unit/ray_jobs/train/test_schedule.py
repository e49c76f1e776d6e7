"""What happens at which step."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from millrace.spec import PipelineSpec
from ray_jobs.train.schedule import Schedule


def test_the_spec_says_how_many(make_spec: Callable[..., PipelineSpec]) -> None:
    spec = make_spec().training
    assert Schedule.of(spec, 7) == Schedule(spec.epochs * 7, 7, 7)
    few = spec.model_copy(update={"max_steps": 5, "validate_every_steps": 2})
    assert Schedule.of(few, 7) == Schedule(5, 2, 7)
    assert Schedule.of(few, 1).steps == min(5, spec.epochs)


@given(steps=st.integers(1, 200), every=st.integers(1, 300))
def test_the_last_step_is_always_validated(steps: int, every: int) -> None:
    schedule = Schedule(steps, min(every, steps), 10)
    rounds = [step for step in range(1, steps + 1) if schedule.is_round(step)]
    assert rounds[-1] == steps
    assert all(step % every == 0 for step in rounds[:-1])
    assert all(0 < schedule.rate(step) <= 1 for step in range(steps))
