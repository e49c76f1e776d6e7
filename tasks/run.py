"""What every task of one flow run shares, and the wrapper that makes a function a step of it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.concurrency.sync import concurrency
from prefect.runtime import flow_run
from prefect.tasks import Task

from millrace import logs
from millrace.errors import MillraceError
from millrace.ledger import Ledger
from millrace.logs import get_logger, identified
from millrace.pipeline import Pipeline, load_pipeline
from millrace.settings import Settings, load_settings
from millrace.storage import ObjectStore
from millrace.window import utc

#: Told of each step's begin (seconds None) and end, for a terminal that follows along: (step, seconds).
StepListener = Callable[[str, float | None], None]
_listener: ContextVar[StepListener | None] = ContextVar("step_listener", default=None)

P = ParamSpec("P")
R = TypeVar("R")

_RETRIES = 2
_RETRY_DELAY_SECONDS = 2
_LEASE_SECONDS = 60


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
    """One flow run: whose pipeline, which settings, and under which identifier it is kept."""

    settings: Settings
    pipeline: Pipeline
    id: str

    @property
    def store(self) -> ObjectStore:
        return ObjectStore(self.settings.objects)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger)

    def spend(self, part: str, seconds: float, num_cpus: float = 1.0, num_gpus: float = 0.0) -> None:
        """Record what `seconds` of `part` cost, at the spec's prices."""
        costs = self.pipeline.spec.costs
        amount = seconds / 3600 * (num_cpus * costs.cpu_hour + num_gpus * costs.gpu_hour)
        self.ledger.spend(self.pipeline.name, part, self.id, seconds=seconds, amount=amount, currency=costs.currency)


def start_run(pipeline: str) -> Run:
    """The run of the flow that calls this.

    Raises:
        UnknownNameError: there is no such pipeline.
        SpecError: its pipeline.yaml is broken.
    """
    settings = load_settings()
    if not logs.is_configured():
        logs.configure(settings.log_level, json_lines=settings.log_json)
    return Run(settings, load_pipeline(pipeline, settings.pipelines), str(flow_run.get_id() or "local"))


@contextmanager
def pipeline_slot(run: Run) -> Iterator[None]:
    """Hold the pipeline's only slot: one flow at a time changes what it serves; others wait.

    The slot is a lease: if this process is killed, it comes free after a minute.
    """
    name = f"pipeline:{run.pipeline.name}"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, limit=1)
    with (
        concurrency(name, occupy=1, lease_duration=_LEASE_SECONDS, strict=True),
        identified(pipeline=run.pipeline.name, run=run.id),
    ):
        yield


def _can_help(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry can help: the error's class says so."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, MillraceError) and error.retryable


def step(function: Callable[Concatenate[Run, P], R]) -> Callable[Concatenate[Run, P], R]:
    """Make `function(run, ...)` a Prefect task that retries what a retry can help, and log and bill its time."""
    name = function.__name__

    @functools.wraps(function)
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
        return wrapped(run, *args, **kwargs)

    call.__doc__ = function.__doc__
    return call


def moment(as_of: datetime | None) -> datetime:
    """The moment whose knowledge a flow uses: `as_of` in UTC, or now."""
    return datetime.now(UTC) if as_of is None else utc(as_of)
