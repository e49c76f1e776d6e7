"""`millrace demo`: the whole loop on a pipeline's past, window by window, through the live endpoint."""

from __future__ import annotations

import json
import statistics as plain
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
import psutil

from flows.follow import awaited_by, follow, record_of, wait_for_response
from flows.person import person
from flows.progress import Progress
from flows.stack import register_deployments, restore_champions
from infra.local import stack
from millrace import statistics
from millrace.errors import ConfigError, ConflictError, MillraceError
from millrace.faults import fault_point
from millrace.ledger import Incident, Ledger
from millrace.pipeline import Pipeline, load_pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore, write_atomically
from millrace.window import Window, period_end, period_start
from tasks.prefect_api import error_of, flow_state, retry

DEMO = "demo"
_FIRST_SHARE = 0.25
_WHOLE_SHARE = 0.9
_RESPONSE_SECONDS = 60.0


@dataclass(frozen=True)
class _Demo:
    settings: Settings
    pipeline: Pipeline
    progress: Progress
    windows: tuple[Window, ...]

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger)

    @property
    def name(self) -> str:
        return self.pipeline.name

    @property
    def first_as_of(self) -> datetime:
        return self.windows[0].start


def run_demo(settings: Settings, name: str, first: datetime | None, last: datetime | None) -> dict[str, Any]:
    """Close the loop on the pipeline's past; what is done already is not done again.

    Raises:
        ConfigError: the source's past is too short, or `first` and `last` lie outside it.
        MillraceError: whatever stopped a step. Started again, the demo goes on there.
    """
    pipeline = load_pipeline(name, settings.pipelines)
    pipeline.spec.require_served()
    progress = Progress(psutil.Process().create_time())
    demo = _Demo(settings, pipeline, progress, _windows(pipeline, first, last))
    # What does not depend on each other goes side by side: imports while the servers start; what only a check or an
    # incident needs, while the first window's traffic is answered.
    with ThreadPoolExecutor(2) as beside:
        imported = beside.submit(_import_for_training)
        with progress.spinner("starting the stack"):
            stack.up(settings, progress.stack)
            restore_champions(settings, progress)
        imported.result()
        first_prediction = _first_version(demo)
        registered = beside.submit(register_deployments, settings, progress)
        beside.submit(_import_for_checks)
        for window in demo.windows:
            if not _is_done(demo, window):
                _close_loop(demo, window, registered)
        registered.result()
    answer = _summary(demo, first_prediction)
    folder = settings.state / "demo"
    write_atomically(folder / "summary.json", json.dumps(answer, indent=2).encode())
    if name != "flight_delays":
        write_atomically(folder / f"{name}.json", json.dumps(answer, indent=2).encode())
    return answer


def _windows(pipeline: Pipeline, first: datetime | None, last: datetime | None) -> tuple[Window, ...]:
    """The windows that are replayed: whole periods after the first training, which has a quarter of the past."""
    from ray_jobs.stage.shards import source_extent

    extent, period = source_extent(pipeline), pipeline.spec.monitoring.window
    begin = first or period_start(extent.start + _FIRST_SHARE * (extent.end - extent.start), period)
    whole = Window(period_start(extent.end, period), period_end(extent.end, period))
    # A period that lacks only its last rows is whole enough: tables seldom end on the stroke of midnight.
    covered = (extent.end - whole.start) / (whole.end - whole.start) >= _WHOLE_SHARE
    end = last or (whole.end if covered else whole.start)
    if not extent.start < begin < end <= whole.end:
        raise ConfigError(
            f"the demo of '{pipeline.name}' has nothing to replay",
            got=f"first {begin:%Y-%m-%d}, last {end:%Y-%m-%d}",
            allowed=f"{extent.start:%Y-%m-%d} < first < last <= {whole.end:%Y-%m-%d}",
            next="give --first and --last inside the source's past",
        )
    # A check looks at whole periods; what the data has of the last one is left alone.
    windows = tuple(
        window for window in Window(begin, end).split(period) if window.end == period_end(window.start, period)
    )
    if not windows:
        raise ConfigError(
            f"the demo of '{pipeline.name}' has no whole {period} to replay",
            got=f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}",
            next="give an earlier --first, or a shorter monitoring.window in its pipeline.yaml",
        )
    return windows


def _import_for_training() -> None:
    import ray.train.torch  # noqa: F401


def _import_for_checks() -> None:
    import flows.monitoring  # noqa: F401


def _first_version(demo: _Demo) -> float | None:
    """Train and serve the first version, and ask it once; seconds until its answer, None when it served before."""
    if not demo.ledger.decisions(demo.name, "promoted"):
        from flows.training import training
        from tasks.run import listening

        demo.progress.line("training", f"first version, on all that was known at {demo.first_as_of:%Y-%m-%d}")
        with demo.progress.spinner("training"), listening(demo.progress.step):
            outcome = training(demo.name, demo.first_as_of, requested_by=person())
        _tell_outcome(demo, outcome)
        if outcome["outcome"] == "refused":
            raise MillraceError(
                f"the first version of '{demo.name}' was refused, so nothing serves",
                got="; ".join(outcome["reasons"]),
                next="improve the model or its features, or correct the evaluation section of its pipeline.yaml",
            )
        _ask_once(demo)
        seconds = demo.progress.seconds
        demo.progress.line(demo.name, "first prediction served", style="bold green")
        demo.ledger.decide(demo.name, DEMO, "first_prediction", {"seconds": seconds})
    found = [d for d in demo.ledger.decisions(demo.name, DEMO) if d.subject == "first_prediction"]
    return float(found[0].detail["seconds"]) if found else None


def _ask_once(demo: _Demo) -> None:
    """One real row of the first window, through the endpoint."""
    from tasks.replay import example_request

    window = demo.windows[0]
    with fault_point("demo.ask_once"):
        answer = httpx.post(
            f"{demo.settings.serve_url}/v1/{demo.name}/predict",
            content=example_request(demo.pipeline, window),
            headers={
                "content-type": "application/json",
                "x-request-id": f"demo-{demo.name}-first",
                **demo.settings.serve_headers,
            },
            timeout=30.0,
        )
    if not answer.is_success:
        raise MillraceError(
            f"the first prediction failed with {answer.status_code}", got=answer.text, next="look at `millrace status`"
        )


def _is_done(demo: _Demo, window: Window) -> bool:
    return any(decision.subject == window.key for decision in demo.ledger.decisions(demo.name, DEMO))


def _close_loop(demo: _Demo, window: Window, registered: Future[None]) -> None:
    """One window: its traffic, its check, and what a bad check starts."""
    from flows.monitoring import monitoring
    from flows.replay import replay
    from tasks.run import listening

    progress, ledger = demo.progress, demo.ledger
    with progress.spinner(f"traffic of {window}"), listening(progress.step):
        replayed = replay(demo.name, window.start, window.end, _rows_per_request(demo.pipeline))
    traffic = f"{replayed['num_requests']:,} requests, {replayed['num_rows']:,} rows, {replayed['failed']} failed"
    progress.line(_title(demo, window), f"{traffic}, median {replayed['median_ms']:.1f} ms")
    with progress.spinner(f"check of {window}"), listening(progress.step):
        checked = monitoring(demo.name, window.end)
    for verdict in checked["verdicts"]:
        progress.line(
            "", f"{verdict['gate']}: {verdict['reasons'][0]}", style="green" if verdict["passed"] else "yellow"
        )
    incident = next((i for i in ledger.outbox.of(demo.name) if i.window.end == window.end), None)
    registered.result()
    outcome = None if incident is None else _answered(demo, incident)
    ledger.decide(
        demo.name,
        DEMO,
        window.key,
        {
            "version": checked["version"],
            "requests": replayed["num_requests"],
            "incident": None if incident is None else incident.key,
            "incident_kind": None if incident is None else incident.kind,
            "training": None if outcome is None else outcome,
            "spent": sum(ledger.spent(demo.name).values()),
            "report": checked["report"],
            "brake": checked["brake"],
        },
    )


def _answered(demo: _Demo, incident: Incident) -> dict[str, Any]:
    """Follow the training that the incident's event starts."""
    demo.progress.line("incident", incident.evidence["reasons"][0], style="yellow")
    with demo.progress.spinner("waiting for the response"):
        flow_run = wait_for_response(demo.settings, incident.key, _RESPONSE_SECONDS)
    if flow_state(demo.settings, flow_run).has_failed:
        demo.progress.line("training", "failed in an earlier run: trying the same flow run again")
        retry(demo.settings, flow_run)
    state = follow(demo.settings, flow_run, demo.progress)
    if state.has_failed:
        raise error_of(state)
    if (awaited := awaited_by(demo.settings, demo.name, flow_run)) is not None:
        raise ConflictError(
            f"the training of '{demo.name}' waits for a person: {awaited['summary']}",
            next=f"answer it with `millrace approve {awaited['request']}`, then start the demo again",
        )
    outcome = record_of(demo.settings, demo.name, "trained", flow_run)
    _tell_outcome(demo, outcome)
    return outcome


def _tell_outcome(demo: _Demo, outcome: Mapping[str, Any]) -> None:
    style = "green" if outcome["outcome"] != "refused" else "yellow"
    reasons = "; ".join(outcome["reasons"])
    demo.progress.line("gate", f"version {outcome['version']} {outcome['outcome']}: {reasons}", style=style)


def _summary(demo: _Demo, first_prediction: float | None) -> dict[str, Any]:
    """The table by window, measured on what was really answered and on the outcomes that came."""
    windows = {d.subject: d.detail for d in demo.ledger.decisions(demo.name, DEMO)}
    metric = demo.pipeline.spec.evaluation.metric
    months = []
    spent_before = 0.0
    for window in demo.windows:
        done = windows[window.key]
        static, live, rows = _scores(demo, window)
        trained = done["training"]
        months.append(
            {
                "month": _title(demo, window),
                "static": static,
                "live": live,
                f"{_short(metric)}_static": static,
                f"{_short(metric)}_live": live,
                "version": done["version"],
                "requests": done["requests"],
                "rows": rows,
                "incident": done["incident"],
                "incident_kind": done["incident_kind"],
                "retrained": trained is not None,
                "outcome": None if trained is None else trained["outcome"],
                "improvement": None if trained is None else trained["improvement"],
                "reasons": [] if trained is None else trained["reasons"],
                "cost": done["spent"] - spent_before,
                "report": done["report"],
            }
        )
        spent_before = done["spent"]
    trainings = [done["training"] for done in windows.values() if done.get("training")]
    static_mean, live_mean = (_mean([month[side] for month in months]) for side in ("static", "live"))
    settings = demo.settings
    reports = [month["report"] for month in months if month["report"]]
    return {
        "pipeline": demo.name,
        "metric": metric,
        "period": demo.pipeline.spec.monitoring.window,
        "seconds_to_first_prediction": first_prediction,
        "seconds_total": demo.progress.seconds,
        "months": months,
        "static_mean": static_mean,
        "live_mean": live_mean,
        f"{_short(metric)}_static_mean": static_mean,
        f"{_short(metric)}_live_mean": live_mean,
        "incidents": sum(month["incident"] is not None for month in months),
        "retrains": len(trainings),
        "promotions": sum(trained["outcome"] == "promoted" for trained in trainings),
        "refused": sum(trained["outcome"] == "refused" for trained in trainings),
        "cost": spent_before,
        "currency": demo.pipeline.spec.costs.currency,
        "look_at": {
            "Prefect UI": settings.prefect_url,
            "MLflow UI": f"{settings.mlflow_url}/#/models/{demo.name}",
            "Evidently report": reports[-1] if reports else "",
            "predictions": f"{settings.serve_url}/v1/{demo.name}/predict",
            "summary": str(settings.state / "demo" / "summary.json"),
        },
    }


def _scores(demo: _Demo, window: Window) -> tuple[float | None, float | None, int]:
    """The metric of the frozen first version and of what was answered, on the same rows with an outcome."""
    from millrace.encoding import labels
    from millrace.inference_log import inference_folder, read_joined
    from millrace.package import load_predictor, logged_answers
    from tasks.registry import Registry

    spec = demo.pipeline.spec
    rows = read_joined(inference_folder(demo.settings, demo.name), spec.table, window)
    rows = rows[rows["label"].notna()].reset_index(drop=True)
    if rows.empty:
        return None, None, 0
    first = demo.ledger.decisions(demo.name, "promoted")[0].subject
    package = Registry(demo.settings).version(demo.name, first).package_key
    frozen = load_predictor(ObjectStore.of(demo.settings).get(package), demo.pipeline)
    truth = labels(rows.rename(columns={"label": spec.table.label.column}), spec.table)
    static = statistics.value(spec.evaluation.metric, truth, frozen.predict_rows(rows))
    live = statistics.value(spec.evaluation.metric, truth, logged_answers(rows, spec))
    return static, live, len(rows)


def _rows_per_request(pipeline: Pipeline) -> int:
    return min(64, pipeline.spec.serving.max_rows)


def _title(demo: _Demo, window: Window) -> str:
    return f"{window.start:%Y-%m}" if demo.pipeline.spec.monitoring.window == "month" else f"{window.start:%Y-%m-%d}"


def _short(metric: str) -> str:
    return "auc" if metric == "roc_auc" else metric


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return plain.mean(known) if known else None
