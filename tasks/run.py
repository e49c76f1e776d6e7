"""What every task of one flow run shares, and the wrapper that makes a function a step of it."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import deployment, flow_run
from prefect.tasks import Task

from millrace import logs, redaction
from millrace.errors import MillraceError, ServiceError
from millrace.ledger import SYSTEM, Heartbeat, Ledger, Token
from millrace.logs import get_logger, identified
from millrace.pipeline import Pipeline, load_pipeline
from millrace.secrets import redact
from millrace.settings import Settings, load_settings
from millrace.storage import ObjectStore
from millrace.window import known_moment
from tasks.liveness import living
from tasks.run_kinds import LOCAL, STARTED

#: Told of each step's begin (seconds None) and end, for a terminal that follows along: (step, seconds).
StepListener = Callable[[str, float | None], None]
_listener: ContextVar[StepListener | None] = ContextVar("step_listener", default=None)

P = ParamSpec("P")
R = TypeVar("R")

_RETRIES = 2
_RETRY_DELAY_SECONDS = 2


@contextmanager
def listening(listener: StepListener) -> Iterator[None]:
    """Tell `listener` of the steps of flows that run inside the block, in this process."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@dataclass(frozen=True)
class Run:
    """One flow run: whose pipeline, which settings, under which identifier it is kept, and whose knowledge it uses.

    `token` proves that it holds a slot of the pipeline, where it does. `requested_by` is who asked for it:
    `person:NAME`, `millrace` for a schedule or an incident, None when nobody knows.
    """

    settings: Settings
    pipeline: Pipeline
    id: str
    as_of: datetime
    token: Token | None = None
    requested_by: str | None = SYSTEM
    heartbeat: Heartbeat | None = None

    @property
    def store(self) -> ObjectStore:
        return ObjectStore.of(self.settings)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger)

    @property
    def proof(self) -> Token:
        """The token by which it may publish."""
        if self.token is None:
            raise AssertionError(f"run {self.id} publishes without holding a slot")
        return self.token

    def prove(self) -> None:
        """Prove, before something outside the ledger is changed, that this run still holds its slot.

        Raises:
            FencedError: it does not.
        """
        self.ledger.slots.require(self.proof)

    @property
    def is_superseded(self) -> bool:
        """Whether another process is this run by now, or has been until its end."""
        return self.heartbeat is not None and not self.ledger.heartbeats.beat(self.heartbeat)

    def recorded(self, kind: str) -> Mapping[str, Any] | None:
        """What this very run has recorded as `kind`, perhaps in an earlier life; None when it has not."""
        found = self.ledger.entries(self.pipeline.name, kind, subject=self.id)
        return found[-1].detail if found else None

    def record(self, kind: str, detail: Mapping[str, Any]) -> None:
        """Record `detail` as this run's `kind`; what it recorded first stays."""
        self.ledger.decide(self.pipeline.name, kind, self.id, detail, actor=self.id, once=self.id)

    def spend(self, part: str, seconds: float, num_cpus: float = 1.0, num_gpus: float = 0.0) -> None:
        """Record what `seconds` of `part` cost, at the spec's prices."""
        costs = self.pipeline.spec.costs
        amount = seconds / 3600 * (num_cpus * costs.cpu_hour + num_gpus * costs.gpu_hour)
        self.ledger.spend(self.pipeline.name, part, self.id, seconds=seconds, amount=amount, currency=costs.currency)


class Interrupted(BaseException):
    """A service is away: the run goes on by itself, later."""


@contextmanager
def going_on(run: str) -> Iterator[None]:
    """Have a run that goes on crash, which is how Prefect and the reconciler tell it from one that failed."""
    try:
        yield
    except Exception as error:
        if not will_go_on(error):
            raise
        get_logger().warning("interrupted: it will go on", run=run, error=str(error))
        # No `Exception`, so that nothing takes it for a failure: what cleans those does not see it.
        raise Interrupted(redact(f"{type(error).__name__}: {error}")) from redaction.clean(error)


def will_go_on(error: Exception) -> bool:
    """Whether the flow run that raised `error` goes on by itself: a service is away, and a deployment can start it.

    A run that a person follows in a command ends, and says why.
    """
    if deployment.get_id() is None:
        return False
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TransportError) or (isinstance(error, ServiceError) and error.retryable)


@contextmanager
def open_run(
    flow: str,
    pipeline: str,
    as_of: datetime | None = None,
    requested_by: str | None = SYSTEM,
    *,
    run_id: str | None = None,
) -> Iterator[Run]:
    """The run of the flow that calls this, living until the block ends; outside of one, a run with the id `run_id`.

    A run that goes on after a kill gets the `as_of` and `requested_by` that it had at first.

    Raises:
        UnknownNameError: there is no such pipeline.
        ConfigError: `as_of` is out of range.
        SpecError: its pipeline.yaml is broken.
    """
    settings = load_settings()
    if not logs.is_configured():
        logs.configure(settings.log_level, json_lines=settings.log_json)
    found = load_pipeline(pipeline, settings.pipelines)
    moment = known_moment(as_of) if as_of is not None else datetime.now(UTC)
    run = str(run_id or flow_run.get_id() or f"{LOCAL}{uuid.uuid4().hex}")
    ledger = Ledger(settings.ledger)
    with (
        redaction.without_secrets(),
        going_on(run),
        living(ledger, run, flow, pipeline) as heartbeat,
        identified(pipeline=pipeline, run=run),
    ):
        detail = {"flow": flow, "as_of": moment.isoformat(), "requested_by": requested_by}
        started = ledger.decide(pipeline, STARTED, run, detail, actor=run, once=run).detail
        moment = datetime.fromisoformat(started["as_of"])
        asked_by = started.get("requested_by", SYSTEM)
        yield Run(settings, found, run, moment, requested_by=asked_by, heartbeat=heartbeat)


def _can_help(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry can help: the error's class says so."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, MillraceError) and error.retryable


def step(function: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
    """Make `function(run, ...)` a Prefect task that retries what a retry can help, and log and bill its time."""
    name = function.__name__

    @functools.wraps(function)
    @redaction.without_secrets()
    def timed(run: Run, *args: P.args, **kwargs: P.kwargs) -> R:
        started, listener = time.perf_counter(), _listener.get()
        with identified(pipeline=run.pipeline.name, run=run.id, step=name):
            if listener is not None:
                listener(name, None)
            result = function(run, *args, **kwargs)
            seconds = time.perf_counter() - started
            get_logger().info(f"{name} done", seconds=round(seconds, 2))
            if listener is not None:
                listener(name, seconds)
        return result

    wrapped = task(
        name=name,
        retries=_RETRIES,
        retry_delay_seconds=_RETRY_DELAY_SECONDS,
        retry_condition_fn=_can_help,
        cache_policy=NO_CACHE,
        persist_result=False,
    )(timed)

    def call(run: Run, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # Called outside of a flow run (a command, a test) it is the plain function.
        return timed(run, *args, **kwargs) if FlowRunContext.get() is None else wrapped(run, *args, **kwargs)

    call.__doc__ = function.__doc__
    return call
