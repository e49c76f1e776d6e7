"""Start a deployment and follow its run in the terminal, step by step."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from flows.person import person
from flows.progress import Progress
from millrace.approvals.requests import AWAITED
from millrace.errors import ConflictError, MillraceError
from millrace.ledger import Ledger
from millrace.pipeline import load_pipeline
from millrace.settings import Settings
from tasks.prefect_api import FlowState, error_of, flow_state, submit, task_states
from tasks.run_kinds import ABANDONED

TRAINING = "training/training"

_POLL_SECONDS = 0.1
# The reconciler finds a dead run within 5 s and has it go on within 15 s.
_REVIVAL_SECONDS = 20.0


def run_training(settings: Settings, name: str, as_of: datetime | None) -> dict[str, Any]:
    """Run the training deployment; its outcome, or what it waits for."""
    asked_by = person()
    parameters = _given(pipeline=name, as_of=as_of, requested_by=asked_by)
    flow_run = _run(settings, name, TRAINING, parameters)
    if (awaited := awaited_by(settings, name, flow_run)) is not None:
        return {"pipeline": name, "flow_run": flow_run, "outcome": "waiting", "requests": [awaited]}
    return {"pipeline": name, **record_of(settings, name, "trained", flow_run)}


def awaited_by(settings: Settings, name: str, flow_run: str) -> dict[str, Any] | None:
    """The request for whose answer a training is suspended; None when it has ended."""
    from flows.approve import list_requests

    ledger = Ledger(settings.ledger)
    awaited = ledger.entries(name, AWAITED, subject=flow_run)
    if not awaited or ledger.entries(name, "trained", subject=flow_run):
        return None
    shown = list_requests(settings, None, everything=True)["requests"]
    return next(dict(request) for request in shown if request["request"] == awaited[-1].detail["request"])


def run_check(settings: Settings, name: str, as_of: datetime | None) -> dict[str, Any]:
    """Run the monitoring deployment; the newest check."""
    return record_of(
        settings, name, "checked", _run(settings, name, "monitoring/monitoring", _given(pipeline=name, as_of=as_of))
    )


def run_replay(settings: Settings, name: str, start: datetime, end: datetime, rows_per_request: int) -> dict[str, Any]:
    """Run the replay deployment; what was sent and answered."""
    parameters = _given(pipeline=name, start=start, end=end, rows_per_request=rows_per_request)
    return record_of(settings, name, "replayed", _run(settings, name, "replay/replay", parameters))


def record_of(settings: Settings, name: str, kind: str, flow_run: str) -> dict[str, Any]:
    """What a flow run left in the ledger.

    Raises:
        ConflictError: nothing: a person paused it, or its worker keeps another ledger.
    """
    found = Ledger(settings.ledger).entries(name, kind, subject=flow_run)
    if not found:
        raise ConflictError(
            f"flow run {flow_run} left no record in the ledger",
            got=f"no entry '{kind}' of '{name}'",
            allowed="one that has ended, by a worker with the same MILLRACE_LEDGER_URL and MILLRACE_STATE_DIR",
            next=f"look at it: {settings.prefect_url}/runs/flow-run/{flow_run}",
        )
    return dict(found[-1].detail)


def _run(settings: Settings, name: str, deployment: str, parameters: dict[str, Any]) -> str:
    # What is wrong with the spec, or cannot be asked of it, is told at once and not by a failed flow run.
    spec = load_pipeline(name, settings.pipelines).spec
    if deployment != TRAINING:
        spec.require_served()
    progress = Progress()
    flow_run = submit(settings, deployment, parameters)
    progress.line(deployment.split("/", maxsplit=1)[0], f"{settings.prefect_url}/runs/flow-run/{flow_run}")
    state = follow(settings, flow_run, progress)
    if state.has_failed:
        raise error_of(state)
    return flow_run


def follow(settings: Settings, flow_run: str, progress: Progress) -> FlowState:
    """Print each task run as it ends, until the flow run has ended or waits for a person; its last state."""
    told: set[str] = set()
    crashed: float | None = None
    with progress.spinner("waiting for the worker"):
        while True:
            state = flow_state(settings, flow_run)
            for task in task_states(settings, flow_run):
                if task.state == "RUNNING":
                    progress.doing(task.name)
                if task.state in ("COMPLETED", "FAILED") and task.id not in told:
                    told.add(task.id)
                    failed = task.state == "FAILED"
                    progress.line("", task.name.replace("_", " "), task.seconds, "red" if failed else "")
            if state.state != "CRASHED":
                crashed = None
            elif crashed is None:
                crashed = time.monotonic()
            if state.state == "PAUSED" or (state.is_final and not (crashed and _goes_on(settings, flow_run, crashed))):
                return state
            time.sleep(_POLL_SECONDS)


def _goes_on(settings: Settings, flow_run: str, crashed: float) -> bool:
    """Whether a run that crashed at `crashed` (monotonic) may still go on: the reconciler has not given it up."""
    if Ledger(settings.ledger).entries(None, ABANDONED, subject=flow_run):
        return False
    return time.monotonic() - crashed < _REVIVAL_SECONDS


def wait_for_response(settings: Settings, incident: str, seconds: float) -> str:
    """The flow run that answers an incident, once the ledger knows it; the reconciler sees to it that one does.

    Raises:
        MillraceError: nobody has answered in time.
    """
    ledger, started = Ledger(settings.ledger), time.monotonic()
    while time.monotonic() < started + seconds:
        found = ledger.outbox.find(incident)
        if found is not None and found.response is not None:
            return found.response
        time.sleep(_POLL_SECONDS)
    raise MillraceError(
        f"nobody has answered {incident} in {seconds:.0f} s",
        next="look at the log of the reconciler (`millrace status`), and at the runs of `respond` in the Prefect UI",
    )


def _given(**parameters: Any) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in parameters.items()
        if value is not None
    }
