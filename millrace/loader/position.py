"""Where a training is in its data: one place for all ranks, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Position:
    """What the trainer has taken: whole epochs, samples of this epoch's order, and batches since the beginning."""

    epoch: int = 0
    sample: int = 0
    step: int = 0

    def after(self, batch_size: int, num_usable: int) -> Position:
        """The position one global batch later; `num_usable` samples of the order make an epoch."""
        sample = self.sample + batch_size
        if sample >= num_usable:
            return Position(self.epoch + 1, 0, self.step + 1)
        return Position(self.epoch, sample, self.step + 1)
