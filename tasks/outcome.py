"""What came of a training, kept in the ledger under its flow run, and as the incident's outcome."""

from __future__ import annotations

from typing import Any

from millrace.gate import Evaluation
from ray_jobs.train.request import TrainResult
from tasks.registry import CHAMPION, Registry, Version
from tasks.run import Run

TRAINED = "trained"
UNCHANGED = "unchanged"


def serving_version(run: Run, result: TrainResult) -> Version | None:
    """The champion, when it is this very package: an identical training was promoted before."""
    champion = Registry(run.settings).by_alias(run.pipeline.name, CHAMPION)
    return champion if champion is not None and champion.package_digest == result.package_digest else None


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
        "trained": not result.cached,
        "train_seconds": round(result.seconds, 2),
        "metrics": dict(result.metrics),
        "evaluation": None if evaluation is None else {name: dict(m) for name, m in evaluation.metrics.items()},
        "improvement": None
        if evaluation is None or evaluation.improvement is None
        else evaluation.improvement.difference,
        "reasons": [] if evaluation is None else list(evaluation.verdict.reasons),
        "incident": incident,
    }
    run.ledger.decide(run.pipeline.name, TRAINED, run.id, record)
    if incident is not None:
        run.ledger.close_incident(incident, outcome)
    return record
