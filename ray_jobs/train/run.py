"""Run a training request on Ray Train, or find that it was run before."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from millrace.errors import MillraceError, ServiceError, TrainingError
from millrace.faults import fault_point
from millrace.pipeline import Pipeline
from millrace.storage import Artifact
from ray_jobs.cluster import connect, object_store
from ray_jobs.train.request import TrainRequest, TrainResult
from ray_jobs.train.room import require_room, telling_of_waits


def find_result(request: TrainRequest) -> TrainResult | None:
    """The result of an identical earlier request, or None."""
    package = object_store(request.settings).find(request.package_key)
    return None if package is None else _result(package, seconds=0.0)


def train(request: TrainRequest, pipeline: Pipeline, callbacks: Sequence[Any] = ()) -> TrainResult:
    """Train on the cluster; `callbacks` are Ray Train's `UserCallback`s, run on its controller.

    A run that was killed goes on after its last epoch when the same request comes again.

    Raises:
        TrainingError: the workers failed more often than training.max_failures.
        ServiceError: the cluster was lost on the way.
        ConfigError: the local Ray head can never hold the workers, or the spec's layout cannot work.
        MillraceError: what a worker raised of ours (bad data, a loss that is not finite).
    """
    if (found := find_result(request)) is not None:
        return found
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError

    from ray_jobs.train.worker import train_worker

    spec = pipeline.spec.training
    require_layout(pipeline)
    connect(request.settings)
    resources = {"CPU": spec.cpus_per_worker} | ({"GPU": 1.0} if spec.use_gpu else {})
    require_room(request.settings, request.pipeline_name, spec.num_workers, resources)
    started = time.perf_counter()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"request": request},
        scaling_config=ScalingConfig(
            num_workers=spec.num_workers, use_gpu=spec.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"{request.key}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{request.settings.objects}/ray_train/{request.pipeline_name}",
            failure_config=FailureConfig(max_failures=spec.max_failures),
            callbacks=list(callbacks),
        ),
    )
    try:
        with telling_of_waits(request.pipeline_name, spec.num_workers, resources), fault_point("ray.train"):
            trainer.fit()
    except (ControllerError, RayError) as error:
        raise ServiceError(
            f"Ray lost training run {request.key} of '{request.pipeline_name}'",
            got=str(error),
            next="look at `millrace status`, then run it again: it goes on after its last whole epoch",
        ) from error
    except TrainingFailedError as error:
        raise _training_error(request, spec.max_failures, error) from error
    return _result(object_store(request.settings).get(request.package_key), seconds=time.perf_counter() - started)


def require_layout(pipeline: Pipeline) -> None:
    """Refuse a layout that cannot work before any worker starts.

    Raises:
        ConfigError: with all reasons.
    """
    import torch

    from millrace.encoding import TableInputs
    from ray_jobs.train.layout.checks import layout_of

    spec = pipeline.spec.training
    if spec.layout == "auto":
        return
    inputs = TableInputs.shaped(pipeline.spec.data)
    with torch.device("meta"):
        module = pipeline.build_model(inputs, pipeline.spec.model.options)
    layout_of(spec, module, pipeline.parallel_plan(inputs), spec.num_workers)


def _training_error(request: TrainRequest, max_failures: int, error: Exception) -> MillraceError:
    failures = dict(getattr(error, "worker_failures", {}))
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, MillraceError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    first = "; ".join(f"rank {rank}: {type(failure).__name__}: {failure}" for rank, failure in failures.items())
    return TrainingError(
        f"training run {request.key} of '{request.pipeline_name}' failed after {max_failures} restarts",
        got=first or str(error),
        next="run it again: it goes on after its last whole epoch",
    )


def _result(package: Artifact, *, seconds: float) -> TrainResult:
    trained_by = str(package.lineage.get("flow_run", ""))
    return TrainResult(package.key, package.digest, dict(package.summary["metrics"]), seconds, trained_by)
