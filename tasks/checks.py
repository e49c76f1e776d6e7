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
from millrace.inference_log import inference_folder, read_joined
from millrace.ledger import CheckRecord, Incident
from millrace.package import logged_answers, reference_sample
from millrace.package_files import package_spec
from millrace.verdict import Verdict
from millrace.window import Window, newest_full
from tasks import artifacts
from tasks.champion import champion_of
from tasks.evidently_report import measure_drift
from tasks.registry import Registry, Version
from tasks.run import Run, step
from tasks.run_kinds import PROMOTED

CHECKED = "checked"
BEGUN = "check_begun"


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


def window_to_check(run: Run) -> Window:
    """The newest whole period of the spec that ended at or before the run's `as_of`."""
    return newest_full(run.as_of, run.pipeline.spec.monitoring.window)


@step
def check_window(run: Run, window: Window) -> dict[str, Any]:
    """Judge the champion's answers in `window`: drift against its reference, quality on arrived outcomes.

    Returns:
        `Checked` as a dict; what this very run found before it was killed, where it had come so far.
    """
    if (recorded := run.recorded(CHECKED)) is not None:
        return dict(recorded)
    run.pipeline.spec.require_served()
    champion = _judged_version(run)
    folder = inference_folder(run.settings, run.pipeline.name)
    rows = read_joined(folder, run.pipeline.spec.table, window)
    rows = rows[rows["version"] == champion.version].reset_index(drop=True)
    num_outcomes = int(rows["label"].notna().sum())
    minimum = run.pipeline.spec.monitoring.min_rows
    if len(rows) < minimum:
        reason = f"version {champion.version} answered {len(rows):,} rows in {window}, {minimum:,} needed to judge"
        brake = BrakeDecision(False, reason)
        return _recorded(run, Checked(window, champion.version, len(rows), num_outcomes, (), brake, None, ""))
    verdicts, columns, report_url = _measure(run, champion, window, rows)
    brake, incident = release_incident(run, champion, window, verdicts)
    shown = brake.reason if incident is None else f"incident {incident.key}: {brake.reason}"
    artifacts.drift(run.pipeline.name, verdicts, columns, report_url, shown)
    return _recorded(
        run, Checked(window, champion.version, len(rows), num_outcomes, verdicts, brake, incident, report_url)
    )


def _judged_version(run: Run) -> Version:
    """The champion when the check began: before a kill, its own incident may have brought another one."""
    begun = run.recorded(BEGUN)
    if begun is not None:
        return Registry(run.settings).version(run.pipeline.name, str(begun["version"]))
    champion = champion_of(run)
    run.record(BEGUN, {"version": champion.version})
    return champion


def _recorded(run: Run, checked: Checked) -> dict[str, Any]:
    run.record(CHECKED, checked.as_dict())
    return checked.as_dict()


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
        labels(judged.rename(columns={"label": spec.table.label.column}), spec.table),
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


def release_incident(
    run: Run, champion: Version, window: Window, verdicts: Sequence[Verdict]
) -> tuple[BrakeDecision, Incident | None]:
    """Record this window, ask the brakes about the newest ones, and open the incident that they let through."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    name, brakes = run.pipeline.name, run.pipeline.spec.monitoring.brakes
    judged = CheckRecord(name, champion.version, window, bool(failed), tuple(verdict.as_dict() for verdict in verdicts))
    run.ledger.record_check(judged, run.id)
    history = [record.bad for record in run.ledger.checks(name, window.end, brakes.of_windows)]
    if not failed:
        return decide(brakes, history, (), window.end), None
    evidence = {"reasons": [f"{verdict.gate}: {'; '.join(verdict.reasons)}" for verdict in failed]}
    incident = Incident(name, champion.version, failed[0].gate, window, evidence)

    def brake(ends: Sequence[datetime]) -> BrakeDecision:
        return decide(brakes, history, ends, window.end)

    outbox = run.ledger.outbox
    if outbox.open_when(incident, lambda ends: brake(ends).release) or outbox.find(incident.key) is not None:
        # Said of the others, so that a check that was killed after it opened its incident says the same again.
        return brake([other.window.end for other in outbox.of(name) if other.key != incident.key]), incident
    return brake([other.window.end for other in outbox.of(name)]), None
