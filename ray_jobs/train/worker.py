"""The function that Ray Train starts on each worker, and the package that rank 0 makes of the result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch

from millrace import redaction, statistics
from millrace.card import model_card
from millrace.encoding import labels
from millrace.loader import Cache
from millrace.package import LabelScale, Predictor, publish_package
from millrace.pipeline import Pipeline
from ray_jobs.cluster import object_store, pipeline_on_worker, scratch_dir
from ray_jobs.train.beats import Pulse
from ray_jobs.train.checkpoints.interval import FailureRate
from ray_jobs.train.data import labelled, read_labelled
from ray_jobs.train.loop import Fitted, Place, fit, predictor_module
from ray_jobs.train.notice import Notice, noticed
from ray_jobs.train.problem import Problem
from ray_jobs.train.rank import Rank
from ray_jobs.train.request import TrainRequest
from ray_jobs.train.stopwatch import Stopwatch
from ray_jobs.train.table_problem import open_table

_LAST_WORD_SECONDS = 5.0


@redaction.without_secrets()
def train_worker(config: dict[str, Any]) -> None:
    """One rank of a training run; `config` holds its `request`, the number of the `attempt`, and the `desk`.

    Without a desk nobody is told how it goes.
    """
    import ray.train
    from ray.train.torch import get_device

    redaction.install(streams=True)
    request: TrainRequest = config["request"]
    watch, attempt = Stopwatch(), config.get("attempt", 0)
    desk: Any = config.get("desk")
    context = ray.train.get_context()
    tells = desk is not None and context.get_world_rank() == 0
    notice = Notice()
    with telling(desk, watch, attempt, context), noticed(notice):
        pipeline, store = pipeline_on_worker(request.settings, request.pipeline_name), object_store(request.settings)
        spec = pipeline.spec.training
        torch.set_num_threads(max(1, int(spec.cpus_per_worker)))
        problem, scale = open_table(request, pipeline, store)
        place = Place(
            store,
            request.checkpoint_prefix,
            report=(lambda metrics: desk.tell.remote(dict(metrics))) if tells else (lambda metrics: None),
            prove=request.prove,
            rate=FailureRate().seen(attempt, 0.0),
            cache=Cache(scratch_dir(request.settings, "shards"), int(spec.shard_cache_gb * 1e9)),
            notice=notice,
            ask=None if desk is None else _is_preempted,
            watch=watch,
        )
        rank = Rank.of(get_device())
        fitted = fit(pipeline, problem, rank, place)
        if rank.is_first:
            _publish(request, pipeline, problem, scale, fitted)


def _is_preempted() -> bool:
    """Whether Ray knows that a node of this run goes away; all ranks must ask at the same time."""
    from ray.train import get_preemption_info

    return get_preemption_info() is not None


@contextmanager
def telling(desk: Any, watch: Stopwatch, attempt: int, context: Any) -> Iterator[None]:
    """While the block runs, tell the desk twice a second how it goes, and at its end for sure."""
    if desk is None:
        yield
        return
    import ray

    who = {"rank": context.get_world_rank(), "world_size": context.get_world_size()}
    node = ray.get_runtime_context().get_node_id()
    pulse = Pulse(desk.put.remote, watch, attempt=attempt, node=node, pid=os.getpid(), **who)
    try:
        yield
    finally:
        ray.wait([desk.put.remote(pulse.close())], timeout=_LAST_WORD_SECONDS)


def _publish(request: TrainRequest, pipeline: Pipeline, problem: Problem, scale: LabelScale, fitted: Fitted) -> None:
    spec, store, split = pipeline.spec, object_store(request.settings), request.split
    predictor = Predictor(spec, predictor_module(pipeline, problem.inputs, fitted.weights), scale)
    validation = read_labelled(store, request.staged, spec.data, split.validation)
    measured = statistics.all_metrics(
        spec.data.label, labels(validation, spec.data), predictor.predict_rows(validation)
    )
    position = fitted.position
    metrics = {f"validation_{name}": value for name, value in measured.items()}
    metrics |= {"best_step": float(position.best_step), "steps": float(position.step)}
    windows = {name: f"{part['start'][:10]} to {part['end'][:10]}" for name, part in split.as_dict().items()}
    lineage = _lineage(request)
    num_rows = problem.training.num_samples
    chosen = np.random.default_rng(spec.training.seed).permutation(num_rows)[: spec.monitoring.drift.sample_rows]
    card = model_card(
        spec,
        num_rows=num_rows,
        num_unlabelled=request.staged.num_unlabelled,
        windows=windows,
        metrics=metrics,
        lineage=lineage,
    )
    request.prove()
    publish_package(
        store,
        request.package_key,
        predictor=predictor,
        reference=_rows_at(np.sort(chosen), request, pipeline),
        card=card,
        lineage=lineage | {"history": position.history, "flow_run": request.token.holder},
        metrics=metrics,
    )


def _rows_at(places: Sequence[int] | np.ndarray[Any, Any], request: TrainRequest, pipeline: Pipeline) -> pd.DataFrame:
    """The training rows at `places`, in rising order, without holding more than a staged shard."""
    store, start, found = object_store(request.settings), 0, []
    for rows in labelled(store, request.staged, pipeline.spec.data, request.split.training):
        first, last = np.searchsorted(places, [start, start + len(rows)])
        found.append(rows.iloc[np.asarray(places[first:last]) - start])
        start += len(rows)
    return pd.concat(found, ignore_index=True)


def _lineage(request: TrainRequest) -> dict[str, Any]:
    return {
        **request.lineage,
        "data": request.staged.digest,
        "staged": request.staged.key,
        "run": request.key,
        "split": request.split.as_dict(),
    }
