"""Run a training request on Ray Train, or find that it was run before."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from millrace.errors import ServiceError
from millrace.faults import fault_point
from millrace.goodput import Attempt
from millrace.pipeline import Pipeline
from millrace.spec import TrainingSpec
from millrace.storage import Artifact
from ray_jobs.cluster import connect, object_store, run_all
from ray_jobs.train.accounts import Accounts
from ray_jobs.train.budget import Budget, Loss, loss_of_workers
from ray_jobs.train.growth import Growth, room_for
from ray_jobs.train.monitor import Desk, Report, watching
from ray_jobs.train.problems import prepare, shaped_inputs
from ray_jobs.train.request import TrainRequest, TrainResult
from ray_jobs.train.room import require_room, telling_of_waits


def find_result(request: TrainRequest) -> TrainResult | None:
    """The result of an identical earlier request, or None."""
    store = object_store(request.settings)
    package = store.find(request.package_key)
    return None if package is None else _result(package, Accounts(store, request.accounts_prefix).read(), seconds=0.0)


def train(request: TrainRequest, pipeline: Pipeline, report: Report = lambda metrics: None) -> TrainResult:
    """Train on the cluster; `report` is told of each validation while it goes on.

    Workers that are lost, or hang, are replaced, and the run goes on from its last checkpoint, in as many workers as
    there is room for; so does a run that was killed when the same request comes again.

    Raises:
        TrainingError: workers were lost more often than training.max_failures.
        ServiceError: the cluster was lost on the way.
        ConfigError: the local Ray head can never hold the workers, or the spec's layout cannot work.
        MillraceError: what a worker raised of ours (bad data, a loss that is not finite): it is not tried again.
    """
    if (found := find_result(request)) is not None:
        return found
    began = time.time()
    spec, store = pipeline.spec.training, object_store(request.settings)
    require_layout(pipeline)
    connect(request.settings)
    resources = {"CPU": spec.cpus_per_worker} | ({"GPU": 1.0} if spec.use_gpu else {})
    require_room(request.settings, request.pipeline_name, spec.min_workers or spec.num_workers, resources)
    run_all(request.settings, prepare, [(request,)])
    accounts = Accounts(store, request.accounts_prefix)
    growth = None if spec.min_workers is None else Growth(spec.num_workers, room_for(resources))
    attempts = _Attempts(request, spec, resources, report, accounts, _desk(), growth)
    budget, attempt = Budget(spec.max_failures), Attempt(len(accounts.read()), spec.num_workers, began, began, {})
    while (loss := attempts.make(attempt)) is not None:
        budget.spend(loss, request)
        now = time.time()
        attempt = replace(attempt, number=attempt.number + 1, began=now, ended=now)
    return _result(store.get(request.package_key), accounts.read(), seconds=time.time() - began)


@dataclass(frozen=True)
class _Attempts:
    """What the attempts of one training have in common."""

    request: TrainRequest
    spec: TrainingSpec
    resources: Mapping[str, float]
    report: Report
    accounts: Accounts
    desk: Any
    growth: Growth | None

    def make(self, attempt: Attempt) -> Loss | None:
        """Start all workers once; why they were lost, or None when the training is done."""
        from ray.exceptions import RayError
        from ray.train.v2.api.exceptions import ControllerError, PreemptionError, TrainingFailedError

        request, spec = self.request, self.spec
        trainer = self._trainer(attempt)
        self.accounts.keep(attempt)
        loss: Loss | None = None
        fewest = spec.min_workers or spec.num_workers
        with watching(self.desk, attempt, self.accounts.keep, self.report, self.growth) as seen:
            try:
                with (
                    telling_of_waits(request.pipeline_name, fewest, spec.num_workers, self.resources),
                    fault_point("ray.train"),
                ):
                    trainer.fit()
            except PreemptionError as error:
                loss = Loss("preempted", str(error), seen)
            except (ControllerError, RayError) as error:
                raise ServiceError(
                    f"Ray lost training run {request.key} of '{request.pipeline_name}'",
                    got=str(error),
                    next="look at `millrace status`, then run it again: it goes on after its last checkpoint",
                ) from error
            except TrainingFailedError as error:
                loss = loss_of_workers(error, seen)
            seen.outcome = "finished" if loss is None else loss.kind
        return loss

    def _trainer(self, attempt: Attempt) -> Any:
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

        from ray_jobs.train.worker import train_worker

        request, spec = self.request, self.spec
        config: Any = RunConfig(
            name=f"{request.key}-{attempt.number:04d}-{uuid.uuid4().hex[:8]}",
            storage_path=f"{request.settings.objects}/ray_train/{request.pipeline_name}",
            # Whether another attempt is made is decided here, not there: with the reason at hand.
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
        )
        scaling = ScalingConfig(
            num_workers=spec.num_workers if spec.min_workers is None else (spec.min_workers, spec.num_workers),
            use_gpu=spec.use_gpu,
            resources_per_worker=dict(self.resources),
            # An attempt keeps its workers: Ray would end them without a checkpoint to begin again in more.
            elastic_resize_monitor_interval_s=math.inf,
        )
        told = {"request": request, "attempt": attempt.number, "desk": self.desk}
        return TorchTrainer(train_worker, train_loop_config=told, scaling_config=scaling, run_config=config)


def _desk() -> Any:
    import ray

    return ray.remote(Desk).options(num_cpus=0, max_restarts=-1).remote()


def require_layout(pipeline: Pipeline) -> None:
    """Refuse a layout that cannot work before any worker starts.

    Raises:
        ConfigError: with all reasons.
    """
    import torch

    from ray_jobs.train.layout.checks import layout_of

    spec = pipeline.spec.training
    if spec.layout == "auto":
        return
    inputs = shaped_inputs(pipeline.spec)
    with torch.device("meta"):
        module = pipeline.build_model(inputs, pipeline.spec.model.options)
    layout_of(spec, module, pipeline.parallel_plan(inputs), spec.num_workers)


def _result(package: Artifact, attempts: Sequence[Attempt], *, seconds: float) -> TrainResult:
    trained_by = str(package.lineage.get("flow_run", ""))
    return TrainResult(
        package.key, package.digest, dict(package.summary["metrics"]), seconds, trained_by, tuple(attempts)
    )
