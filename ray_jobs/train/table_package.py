"""The package that the first rank makes of what a training on a table has fitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from millrace import statistics
from millrace.card import model_card
from millrace.encoding import labels
from millrace.package import LabelScale, Predictor, publish_package
from millrace.pipeline import Pipeline
from ray_jobs.cluster import object_store
from ray_jobs.train.data import labelled, read_labelled
from ray_jobs.train.loop import Fitted, predictor_module
from ray_jobs.train.problem import Problem
from ray_jobs.train.request import TrainRequest


def publish_table(
    request: TrainRequest, pipeline: Pipeline, problem: Problem, scale: LabelScale, fitted: Fitted
) -> None:
    """Commit the package of the best weights of a run.

    Raises:
        FencedError: the run no longer holds the slot.
    """
    spec, store, split = pipeline.spec, object_store(request.settings), request.split
    data = spec.table
    predictor = Predictor(spec, predictor_module(pipeline, problem.inputs, fitted.weights), scale)
    validation = read_labelled(store, request.staged, data, split.validation)
    measured = statistics.all_metrics(data.label, labels(validation, data), predictor.predict_rows(validation))
    position = fitted.position
    metrics = {f"validation_{name}": value for name, value in measured.items()}
    metrics |= {"best_step": float(position.best_step), "steps": float(position.step)}
    windows = {name: f"{part['start'][:10]} to {part['end'][:10]}" for name, part in split.as_dict().items()}
    lineage = request.package_lineage
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
    for rows in labelled(store, request.staged, pipeline.spec.table, request.split.training):
        first, last = np.searchsorted(places, [start, start + len(rows)])
        found.append(rows.iloc[np.asarray(places[first:last]) - start])
        start += len(rows)
    return pd.concat(found, ignore_index=True)
