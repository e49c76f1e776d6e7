"""Starts the flow of each rollout that has begun: once, however often it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from millrace.ledger import Entry, Ledger
from millrace.logs import get_logger
from millrace.rollouts import going_on
from millrace.settings import Settings
from tasks.prefect_api import submit

ROLLOUT = "rollout/rollout"


def start_rollout(settings: Settings, begun: Entry) -> str:
    """Start the flow of the rollout that began by this entry, or find the one that was started; the flow run's id."""
    return submit(
        settings,
        ROLLOUT,
        {"pipeline": begun.pipeline, "version": begun.subject},
        name=f"{begun.pipeline}-version-{begun.subject}",
        idempotency_key=f"rollout-{begun.pipeline}-{begun.sequence}",
    )


@dataclass
class RolloutWatch:
    """A part of the reconciler. One that was cancelled stays so: Prefect finds it by its key and starts nothing."""

    settings: Settings
    ledger: Ledger
    _started: set[int] = field(default_factory=set)

    def tick(self) -> None:
        """Look for one whose flow nobody has started yet."""
        for begun in going_on(self.ledger):
            if begun.sequence not in self._started:
                run = start_rollout(self.settings, begun)
                self._started.add(begun.sequence)
                get_logger().info("a rollout begins", pipeline=begun.pipeline, version=begun.subject, run=run)
