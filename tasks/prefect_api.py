"""The adapter to Prefect's API: start a deployment, follow its run. Light enough for the command line."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import httpx

from millrace.errors import ConflictError, MillraceError, ServiceError, UnknownNameError, error_named
from millrace.faults import fault_point
from millrace.secrets import redact, redact_value
from millrace.settings import Settings

#: The tag of all deployments in prefect.yaml.
TAG = "millrace"

FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_TIMEOUT_SECONDS = 15.0
_ATTEMPTS = 6
_PAUSE_SECONDS = 0.2
# The most that Prefect lists at once.
_PAGE = 200


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task run as a person follows it."""

    id: str
    name: str
    state: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FlowState:
    """A flow run as a person follows it; `message` is what its state says."""

    id: str
    name: str
    state: str
    message: str
    seconds: float
    has_deployment: bool

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES

    @property
    def has_failed(self) -> bool:
        return self.is_final and self.state != "COMPLETED"


@dataclass(frozen=True, slots=True)
class FlowRun:
    """A flow run and the type of its state."""

    id: str
    state: str


def submit(
    settings: Settings,
    deployment: str,
    parameters: dict[str, Any],
    *,
    name: str | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Start a run of `deployment` (FLOW/NAME); with an idempotency key, find the run that was started. Returns its id.

    Raises:
        UnknownNameError: there is no such deployment.
        ConflictError: Prefect refuses the parameters.
        ServiceError: Prefect does not answer.
    """
    found = _ask(settings, "find_deployment", "GET", f"/deployments/name/{deployment}", missing=deployment)
    # Parameters, names, payloads and states are shown to whoever sees the UI. What Prefect finds things by stays as it
    # is: a weak password may be a word of ours.
    body: dict[str, Any] = {"parameters": redact_value(parameters), "state": {"type": "SCHEDULED"}}
    if name is not None:
        body["name"] = redact(name)
    if idempotency_key is not None:
        body["idempotency_key"] = idempotency_key
    return str(_ask(settings, "create_run", "POST", f"/deployments/{found['id']}/create_flow_run", body)["id"])


def publish(settings: Settings, event: dict[str, Any]) -> None:
    """Put one event on the server's bus, and return when the server has it.

    Raises:
        ServiceError: the server does not take it.
    """
    told = event | {"payload": redact_value(event["payload"])}
    _ask(settings, "send_event", "POST", "/events", [told])


def retry(settings: Settings, flow_run: str) -> None:
    """Schedule a failed flow run again, under its own id: what names it (an incident's response) stays true."""
    _set_state(settings, flow_run, "SCHEDULED", "AwaitingRetry", "tried again by millrace")


def resume(settings: Settings, flow_run: str) -> bool:
    """Have a suspended flow run go on without its form; False when it is not suspended."""
    if flow_state(settings, flow_run).state != "PAUSED":
        return False
    _set_state(settings, flow_run, "SCHEDULED", "Resuming", "answered")
    return True


def mark_crashed(settings: Settings, flow_run: str, message: str) -> None:
    """Say of a flow run that nobody will go on with that it crashed."""
    _set_state(settings, flow_run, "CRASHED", "Crashed", message)


def mark_running(settings: Settings, flow_run: str) -> None:
    """Say of a flow run that was reported as crashed that it lives."""
    _set_state(settings, flow_run, "RUNNING", "Running", "it goes on")


def mark_cancelled(settings: Settings, flow_run: str) -> None:
    """Say of a flow run that was told to end that it has."""
    _set_state(settings, flow_run, "CANCELLED", "Cancelled", "it was cancelled")


def was_cancelled(settings: Settings, flow_run: str) -> bool:
    """Whether somebody cancelled a run that says it crashed: a process that is told to end says so on its way out."""
    path = f"/flow_run_states/?flow_run_id={flow_run}"
    states = [state["type"] for state in _ask(settings, "list_states", "GET", path, missing=flow_run)]
    return next((state for state in reversed(states) if state != "CRASHED"), "") in ("CANCELLING", "CANCELLED")


def _set_state(settings: Settings, flow_run: str, kind: str, name: str, message: str) -> None:
    body = {"state": {"type": kind, "name": name, "message": redact(message)}, "force": True}
    _ask(settings, "set_state", "POST", f"/flow_runs/{flow_run}/set_state", body, missing=flow_run)


def flow_runs(settings: Settings, states: Sequence[str], ended_after: datetime | None = None) -> list[FlowRun]:
    """Runs of Millrace's deployments that are in one of `states` (RUNNING, PENDING, CRASHED, …)."""
    wanted: dict[str, Any] = {"state": {"type": {"any_": list(states)}}}
    if ended_after is not None:
        wanted["end_time"] = {"after_": ended_after.isoformat()}
    body = {"flow_runs": wanted, "deployments": {"tags": {"all_": [TAG]}}, "limit": _PAGE}
    found: list[FlowRun] = []
    while True:
        page = _ask(settings, "list_runs", "POST", "/flow_runs/filter", body | {"offset": len(found)})
        found += [FlowRun(item["id"], item["state_type"]) for item in page]
        if len(page) < _PAGE:
            return found


def flow_state(settings: Settings, flow_run: str) -> FlowState:
    """Where a flow run stands."""
    found = _ask(settings, "read_run", "GET", f"/flow_runs/{flow_run}", missing=flow_run)
    state = found.get("state") or {}
    return FlowState(
        id=flow_run,
        name=found["name"],
        state=state.get("type", "PENDING"),
        message=state.get("message") or "",
        seconds=found["total_run_time"],
        has_deployment=found.get("deployment_id") is not None,
    )


def task_states(settings: Settings, flow_run: str) -> Iterator[TaskState]:
    """The flow run's task runs, in the order in which they started."""
    body = {"flow_runs": {"id": {"any_": [flow_run]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": _PAGE}
    for item in _ask(settings, "list_tasks", "POST", "/task_runs/filter", body):
        name = item["name"].rsplit("-", 1)[0]
        yield TaskState(item["id"], name, item.get("state_type") or "PENDING", item["total_run_time"])


def error_of(state: FlowState) -> MillraceError:
    """The error that ended a flow run, as one of ours: its class gives the exit code."""
    text = state.message.split("exception: ", 1)[-1]
    name, _, message = text.partition(": ")
    return error_named(name, message.strip()) or MillraceError(
        f"flow run '{state.name}' ended as {state.state.lower()}",
        got=text or None,
        next=f"look at its logs in the Prefect UI, flow run {state.id}",
    )


def _ask(
    settings: Settings, point: str, method: str, path: str, body: object = None, missing: str | None = None
) -> Any:
    try:
        for attempt in range(_ATTEMPTS):
            with fault_point(f"prefect.{point}"):
                response = httpx.request(
                    method,
                    f"{settings.prefect_api_url}{path}",
                    json=body,
                    headers=settings.prefect_headers,
                    timeout=_TIMEOUT_SECONDS,
                    verify=_certificates(),
                )
            # A server on SQLite answers so while another writer holds the database: nothing was done, ask again.
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(_PAUSE_SECONDS * 2**attempt)
    except httpx.HTTPError as error:
        raise ServiceError(
            f"Prefect at {settings.prefect_url} does not answer",
            got=str(error) or None,
            next="start it with `millrace up`",
        ) from error
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise ServiceError(
            f"Prefect at {settings.prefect_url} does not accept our credentials", next="correct MILLRACE_PREFECT_AUTH"
        )
    if response.status_code == httpx.codes.NOT_FOUND and missing is not None:
        raise UnknownNameError(f"Prefect knows no '{missing}'", next="register the deployments with `millrace up`")
    if response.status_code in (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY):
        raise ConflictError(f"Prefect refuses {method} {path}", got=response.text, next="check the parameters")
    if response.is_error:
        raise ServiceError(
            f"Prefect answers {response.status_code} to {method} {path}",
            got=response.text,
            next="look at its log, below logs in the state folder",
        )
    return response.json() if response.content else None


@cache
def _certificates() -> ssl.SSLContext:
    """Read once: httpx would read all authorities for each request, which takes longer than most answers."""
    return httpx.create_ssl_context()
