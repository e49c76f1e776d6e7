"""How far a training run has come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass
class Position:
    """Optimizer steps taken, where the best validation was, and what each validation measured.

    `losses` and `since` are the sum of the training loss, and the steps, since the last validation. `best_loss` is
    infinite before the first one.
    """

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    best_round: int = 0
    losses: float = 0.0
    since: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def round(self) -> int:
        """Validations so far."""
        return len(self.history)

    @property
    def stale_rounds(self) -> int:
        """Validations since the best one."""
        return self.round - self.best_round

    def stepped(self, loss: float) -> None:
        self.step, self.losses, self.since = self.step + 1, self.losses + loss, self.since + 1

    def validated(self, loss: float, metrics: Mapping[str, float]) -> bool:
        """End a round; whether it was the best one."""
        self.history.append(dict(metrics))
        self.losses, self.since = 0.0, 0
        if loss >= self.best_loss:
            return False
        self.best_loss, self.best_step, self.best_round = loss, self.step, self.round
        return True

    def as_dict(self) -> dict[str, Any]:
        """JSON; an infinite loss is null."""
        return asdict(self) | {"best_loss": self.best_loss if math.isfinite(self.best_loss) else None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """What `as_dict` gave.

        Raises:
            ValueError: it is no position.
        """
        known = set(cls.__dataclass_fields__)
        if set(document) != known:
            raise ValueError(f"a position has {', '.join(sorted(known))}, got {', '.join(map(str, document))}")
        loss = document["best_loss"]
        found = cls(**{**document, "best_loss": math.inf if loss is None else loss})
        counts = found.step, found.best_step, found.best_round, found.since
        if any(type(count) is not int or count < 0 for count in counts) or not all(
            isinstance(value, float | int) for value in (found.best_loss, found.losses)
        ):
            raise ValueError(f"a position counts in whole numbers and has losses, got {dict(document)}")
        if not isinstance(found.history, list) or not all(
            isinstance(each, dict) and all(isinstance(value, float | int) for value in each.values())
            for each in found.history
        ):
            raise ValueError("a history is a list of measured numbers by name")
        if not found.best_step <= found.step or not found.best_round <= found.round:
            raise ValueError(f"the best of {found.step} steps cannot be step {found.best_step}")
        return found
