"""What happens at which step: a function of the step alone, so that a run that goes on needs no state of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from millrace.spec import TrainingSpec

_WARM_UP_SHARE = 0.15


@dataclass(frozen=True)
class Schedule:
    """`steps` optimizer steps at the most, a validation after every `round_steps` and after the last."""

    steps: int
    round_steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, spec: TrainingSpec, steps_per_epoch: int) -> Self:
        steps = spec.epochs * steps_per_epoch
        steps = steps if spec.max_steps is None else min(steps, spec.max_steps)
        return cls(steps, min(spec.validate_every_steps or steps_per_epoch, steps), steps_per_epoch)

    def is_round(self, step: int) -> bool:
        """Whether a validation follows after `step` steps."""
        return step % self.round_steps == 0 or step == self.steps

    def rate(self, step: int) -> float:
        """Share of the peak learning rate for the step after `step` steps."""
        return one_cycle(step / self.steps)


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1]: linear up, cosine down (Smith & Topin 2018)."""
    if progress < _WARM_UP_SHARE:
        return 0.04 + 0.96 * progress / _WARM_UP_SHARE
    along = (progress - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)
    return max(0.5 * (1 + math.cos(math.pi * along)), 1e-3)
