"""Joining the Ray cluster and running a function there, with our errors instead of Ray's."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from millrace import redaction
from millrace.errors import MillraceError, ServiceError
from millrace.faults import fault_point
from millrace.pipeline import Pipeline, load_pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore

P = ParamSpec("P")
R = TypeVar("R")


def connect(settings: Settings) -> None:
    """Join the cluster that the settings name, once a process.

    Raises:
        ServiceError: it does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    try:
        with fault_point("ray.connect"):
            ray.init(address=settings.ray, namespace="millrace", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        raise ServiceError(
            f"the Ray cluster at {settings.ray} does not answer", got=str(error), next="start it with `millrace up`"
        ) from error


def run_all(
    settings: Settings,
    function: Callable[..., R],
    arguments: Sequence[tuple[Any, ...]],
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> list[R]:
    """`function(*arguments)` for each of `arguments`, side by side on the cluster; results in the same order.

    Raises:
        MillraceError: whatever the function raised, as it raised it.
        ServiceError: the cluster lost the task, after Ray's own retries.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    connect(settings)
    remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=2)(_guarded).options(name=function.__name__)
    try:
        with fault_point("ray.tasks"):
            return list(ray.get([remote.remote(function, *given) for given in arguments]))
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(cause, MillraceError):
            raise cause from None
        raise
    except RayError as error:
        raise ServiceError(
            f"Ray lost {function.__name__}", got=str(error), next="look at `millrace status`, then run it again"
        ) from error


def _guarded(function: Callable[..., R], *given: Any) -> R:
    """In the worker: Ray keeps a task's error and what its process prints."""
    redaction.install(streams=True)
    with redaction.without_secrets():
        return function(*given)


def pipeline_on_worker(settings: Settings, name: str) -> Pipeline:
    """The pipeline as a worker of the cluster sees it."""
    return load_pipeline(name, settings.pipelines)


def object_store(settings: Settings) -> ObjectStore:
    return ObjectStore.of(settings)


def scratch_dir(settings: Settings, *parts: str) -> Path:
    """A folder for files that may be lost, made if it is missing."""
    path = settings.state.joinpath("scratch", *parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def num_cpus() -> int:
    return os.cpu_count() or 1
