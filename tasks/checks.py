"""The steps of a check: measure the newest window, judge it, and open at most one incident."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from millrace import checks, statistics
from millrace.brakes import BrakeDecision, decide
from millrace.encoding import labels
from millrace.errors import ConflictError
from millrace.inference_log import inference_folder, read_joined
from millrace.ledger import CheckRecord, Incident
from millrace.package import logged_answers, package_spec, reference_sample
from millrace.verdict import Verdict
from millrace.window import Window, newest_full
from tasks import artifacts
from tasks.evidently_report import measure_drift
from tasks.registry import CHAMPION, Registry, Version
from tasks.rollout import PROMOTED
from tasks.run import Run, step

CHECKED = "checked"


@dataclass(frozen=True)
class Checked:
    """One judged window: who answered, the verdicts, and what the brakes said."""

    window: Window
    version: str
    num_rows: int
    num_outcomes: int
    verdicts: tuple[Verdict, ...]
    brake: BrakeDecision
    incident: Incident | None
    report_url: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "window": self.window.as_dict(),
            "version": self.version,
            "rows": self.num_rows,
            "outcomes": self.num_outcomes,
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "brake": self.brake.reason,
            "incident": None if self.incident is None else self.incident.key,
            "report": self.report_url,
        }


def window_to_check(run: Run, as_of: datetime) -> Window:
    """The newest whole period of the spec that ended at or before `as_of`."""
    return newest_full(as_of, run.pipeline.spec.monitoring.window)


def champion_of(run: Run) -> Version:
    """The version that serves.

    Raises:
        ConflictError: none does, so there is nothing to check.
    """
    champion = Registry(run.settings).by_alias(run.pipeline.name, CHAMPION)
    if champion is None:
        raise ConflictError(
            f"pipeline '{run.pipeline.name}' serves no version",
            next=f"train one with `millrace run {run.pipeline.name}`",
        )
    return champion


@step
def check_window(run: Run, window: Window) -> Checked:
    """Judge the champion's answers in `window`: drift against its reference, quality on arrived outcomes."""
    champion = champion_of(run)
    folder = inference_folder(run.settings, run.pipeline.name)
    rows = read_joined(folder, run.pipeline.spec.data, window)
    rows = rows[rows["version"] == champion.version].reset_index(drop=True)
    num_outcomes = int(rows["label"].notna().sum())
    minimum = run.pipeline.spec.monitoring.min_rows
    if len(rows) < minimum:
        reason = f"version {champion.version} answered {len(rows):,} rows in {window}, {minimum:,} needed to judge"
        brake = BrakeDecision(False, reason)
        return _recorded(run, Checked(window, champion.version, len(rows), num_outcomes, (), brake, None, ""))
    verdicts, columns, report_url = _measure(run, champion, window, rows)
    brake = _judge_history(run, champion, window, verdicts)
    incident = _open_incident(run, champion, window, verdicts, brake)
    shown = brake.reason if incident is None else f"incident {incident.key}: {brake.reason}"
    artifacts.drift(run.pipeline.name, verdicts, columns, report_url, shown)
    return _recorded(
        run, Checked(window, champion.version, len(rows), num_outcomes, verdicts, brake, incident, report_url)
    )


def _recorded(run: Run, checked: Checked) -> Checked:
    run.ledger.decide(run.pipeline.name, CHECKED, run.id, checked.as_dict())
    return checked


def _measure(
    run: Run, champion: Version, window: Window, rows: pd.DataFrame
) -> tuple[tuple[Verdict, ...], dict[str, tuple[float, bool]], str]:
    package = run.store.get(champion.package_key)
    spec = package_spec(package)
    report = run.settings.state / "reports" / run.pipeline.name / f"{window.key}-version-{champion.version}.html"
    drift = measure_drift(rows, reference_sample(package), spec, report)
    report_url = Registry(run.settings).keep_report(champion, report)
    judged = rows[rows["label"].notna()]
    observed = statistics.value(
        spec.evaluation.metric,
        labels(judged.rename(columns={"label": spec.data.label.column}), spec.data),
        logged_answers(judged, spec),
    )
    current = run.pipeline.spec
    verdicts = (
        checks.feature_drift(current.monitoring, drift.features),
        checks.prediction_drift(current.monitoring, drift.prediction[0]),
        checks.quality(current, observed, _expected(run, champion), len(judged)),
    )
    return verdicts, dict(drift.features), report_url


def _expected(run: Run, champion: Version) -> float:
    """The metric at the evaluation that promoted the version; NaN when none is recorded."""
    promoted = [d for d in run.ledger.decisions(run.pipeline.name, PROMOTED) if d.subject == champion.version]
    return float(promoted[-1].detail["observed"]) if promoted else float("nan")


def _judge_history(run: Run, champion: Version, window: Window, verdicts: Sequence[Verdict]) -> BrakeDecision:
    """Record this window, then ask the brakes about the newest ones."""
    bad = not all(verdict.passed for verdict in verdicts)
    name, brakes = run.pipeline.name, run.pipeline.spec.monitoring.brakes
    run.ledger.record_check(
        CheckRecord(name, champion.version, window, bad, tuple(verdict.as_dict() for verdict in verdicts))
    )
    history = run.ledger.checks(name, window.end, brakes.of_windows)
    ends = [incident.window.end for incident in run.ledger.incidents(name)]
    return decide(brakes, [record.bad for record in history], ends, window.end)


def _open_incident(
    run: Run, champion: Version, window: Window, verdicts: Sequence[Verdict], brake: BrakeDecision
) -> Incident | None:
    if not brake.release:
        return None
    failed = [verdict for verdict in verdicts if not verdict.passed]
    evidence = {
        "reasons": [f"{verdict.gate}: {'; '.join(verdict.reasons)}" for verdict in failed],
        "brake": brake.reason,
    }
    incident = Incident(run.pipeline.name, champion.version, failed[0].gate, window, evidence)
    run.ledger.open_incident(incident)
    return incident
