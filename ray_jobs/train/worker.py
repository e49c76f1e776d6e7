"""The function that Ray Train starts on each worker, and the package that rank 0 makes of the result."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from millrace import redaction, statistics
from millrace.card import model_card
from millrace.encoding import TableInputs, labels
from millrace.package import LabelScale, Predictor, publish_package
from millrace.pipeline import Pipeline
from ray_jobs.cluster import object_store, pipeline_on_worker
from ray_jobs.train.data import label_scale, read_labelled, tensors
from ray_jobs.train.loop import Fitted, Rank, fit, predictor_module
from ray_jobs.train.request import TrainRequest


@redaction.without_secrets()
def train_worker(config: dict[str, Any]) -> None:
    """One rank of a training run; `config` holds the `TrainRequest` under `request`."""
    import ray.train
    from ray.train.torch import get_device

    redaction.install(streams=True)
    request: TrainRequest = config["request"]
    context = ray.train.get_context()
    pipeline = pipeline_on_worker(request.settings, request.pipeline_name)
    torch.set_num_threads(max(1, int(pipeline.spec.training.cpus_per_worker)))
    rank = Rank(context.get_world_rank(), context.get_world_size(), get_device())
    store, data, split = object_store(request.settings), pipeline.spec.data, request.split
    training = read_labelled(store, request.staged, data, split.training)
    validation = read_labelled(store, request.staged, data, split.validation)
    scale = label_scale(training, data)
    inputs = TableInputs.fit(training, data)
    fitted = fit(
        pipeline,
        inputs,
        tensors(training, data, scale),
        tensors(validation, data, scale),
        rank=rank,
        store=store,
        checkpoint_prefix=request.checkpoint_prefix,
        report=lambda metrics: ray.train.report(dict(metrics)),
        prove=request.prove,
    )
    if rank.rank == 0:
        _publish(request, pipeline, inputs, scale, fitted, training, validation)


def _publish(
    request: TrainRequest,
    pipeline: Pipeline,
    inputs: TableInputs,
    scale: LabelScale,
    fitted: Fitted,
    training: pd.DataFrame,
    validation: pd.DataFrame,
) -> None:
    spec = pipeline.spec
    predictor = Predictor(spec, predictor_module(pipeline, inputs, fitted.weights), scale)
    measured = statistics.all_metrics(
        spec.data.label, labels(validation, spec.data), predictor.predict_rows(validation)
    )
    metrics = {f"validation_{name}": value for name, value in measured.items()}
    metrics |= {"best_epoch": float(fitted.position.best_epoch), "epochs": float(fitted.position.epoch)}
    windows = {name: f"{part['start'][:10]} to {part['end'][:10]}" for name, part in request.split.as_dict().items()}
    lineage = _lineage(request)
    sample_rows = min(len(training), spec.monitoring.drift.sample_rows)
    reference = training.sample(sample_rows, random_state=spec.training.seed).reset_index(drop=True)
    card = model_card(
        spec,
        num_rows=len(training),
        num_unlabelled=request.staged.num_unlabelled,
        windows=windows,
        metrics=metrics,
        lineage=lineage,
    )
    request.prove()
    publish_package(
        object_store(request.settings),
        request.package_key,
        predictor=predictor,
        reference=reference,
        card=card,
        lineage=lineage | {"history": fitted.position.history, "flow_run": request.token.holder},
        metrics=metrics,
    )


def _lineage(request: TrainRequest) -> dict[str, Any]:
    return {
        **request.lineage,
        "data": request.staged.digest,
        "staged": request.staged.key,
        "run": request.key,
        "split": request.split.as_dict(),
    }
