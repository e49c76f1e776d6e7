"""Verdicts are values: a gate or a check returns one, the flow acts on it, a function never does both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """Pass or fail of one gate or check, with the numbers and the reasons.

    `observed` and `threshold` are in the metric's own unit; None where nothing could be measured.
    """

    gate: str
    passed: bool
    metric: str
    observed: float | None
    threshold: float | None
    reasons: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": list(self.reasons)}

    @property
    def summary(self) -> str:
        """One line for a log, a table or a terminal."""
        return f"{self.gate}: {'passed' if self.passed else 'failed'} - {'; '.join(self.reasons)}"
