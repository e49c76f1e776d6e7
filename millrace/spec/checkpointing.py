"""The `training.checkpoint` section."""

from __future__ import annotations

from pydantic import Field

from millrace.spec.base import Section


class CheckpointSpec(Section):
    """When the state of training is saved, and which saves stay."""

    every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between saves; none: from the measured cost of a save and rate of failures.",
    )
    keep: int = Field(default=2, ge=1, le=1_000, description="So many of the newest checkpoints stay.")
    keep_best: bool = Field(default=True, description="The one with the lowest validation loss stays as well.")
    asynchronous: bool = Field(default=True, description="Save beside the training, from a copy in host memory.")
