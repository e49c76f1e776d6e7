"""What came of a training, kept in the ledger under its flow run, and as the incident's outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace import rollouts
from millrace.gate import Evaluation
from ray_jobs.train.request import TrainResult
from tasks.champion import version_to_beat
from tasks.registry import Version
from tasks.rollout import REFUSED
from tasks.run import Run
from tasks.run_kinds import PROMOTED

TRAINED = "trained"
UNCHANGED = "unchanged"


def known_champion(run: Run, result: TrainResult) -> Version | None:
    """The champion, when it is this very package and an earlier run promoted it or began its rollout."""
    found = version_to_beat(run)
    if found is None or found.package_digest != result.package_digest:
        return None
    by_this_run = any(
        entry.actor == run.id and entry.subject == found.version
        for entry in run.ledger.entries(run.pipeline.name, PROMOTED, rollouts.BEGUN)
    )
    return None if by_this_run else found


def finished(run: Run) -> Mapping[str, Any] | None:
    """The record of a run that had ended before it was killed, or None."""
    return run.recorded(TRAINED)


def finish(
    run: Run,
    outcome: str,
    result: TrainResult,
    version: Version,
    incident: str | None,
    evaluation: Evaluation | None = None,
) -> dict[str, Any]:
    """Record how a training ended; the record is also the flow's result."""
    record = {
        "outcome": outcome,
        "version": version.version,
        "package": result.package_digest,
        "trained": result.trained_by == run.id,
        "train_seconds": round(result.seconds, 2),
        "metrics": dict(result.metrics),
        "evaluation": None if evaluation is None else {name: dict(m) for name, m in evaluation.metrics.items()},
        "improvement": None
        if evaluation is None or evaluation.improvement is None
        else evaluation.improvement.difference,
        "reasons": [] if evaluation is None else list(evaluation.verdict.reasons),
        "incident": incident,
    }
    if incident is not None:
        run.ledger.outbox.close(incident, outcome)
    run.record(TRAINED, record)
    return record


def finish_untrained(run: Run, reason: str, incident: str | None) -> dict[str, Any]:
    """Record that a training was refused before it began; the record is also the flow's result."""
    record: dict[str, Any] = {
        "outcome": REFUSED,
        "version": None,
        "package": None,
        "trained": False,
        "train_seconds": 0.0,
        "metrics": {},
        "evaluation": None,
        "improvement": None,
        "reasons": [reason],
        "incident": incident,
    }
    if incident is not None:
        run.ledger.outbox.close(incident, REFUSED)
    run.record(TRAINED, record)
    return record
