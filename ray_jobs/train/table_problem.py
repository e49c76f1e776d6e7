"""Staged rows of a table as samples in shards, encoded once for all workers of a training and all that follow."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from millrace.dataset import StagedSet
from millrace.encoding import Moments, TableInputs, categorical_array, labels, numeric_array
from millrace.package import LabelScale
from millrace.pipeline import Pipeline
from millrace.shards import Column, SampleSet, ShardWriter, open_set, publish
from millrace.spec import Label, TableSpec
from millrace.storage import ObjectStore, digest_json
from millrace.window import Window
from ray_jobs.cluster import object_store, pipeline_on_worker, scratch_dir
from ray_jobs.train.data import labelled
from ray_jobs.train.layout.engine import Inputs
from ray_jobs.train.problem import Problem
from ray_jobs.train.request import TrainRequest

TARGET = "target"
_SHARD_BYTES = 32 * 2**20
_SMALLEST_STD = 1e-6
_LINEAGE = "fitted"


def prepare_table(request: TrainRequest) -> None:
    """Encode the rows of the request's training and validation windows; nothing where it was done before.

    Rows are read a staged shard at a time, twice: for their statistics, and to encode them.

    Raises:
        DataError: a window has no labelled rows.
    """
    pipeline, store = pipeline_on_worker(request.settings, request.pipeline_name), object_store(request.settings)
    data, split = pipeline.spec.table, request.split
    if _known(store, request):
        return
    fitted = _fit(store, request.staged, data, split.training)
    for part, window in (("training", split.training), ("validation", split.validation)):
        _encode(request, store, data, window, _key(request, part), fitted)


def open_table(request: TrainRequest, pipeline: Pipeline, store: ObjectStore) -> tuple[Problem, LabelScale]:
    """What `prepare_table` made.

    Raises:
        ArtifactError: it did not, or it is gone.
    """
    fitted = dict(store.get(_key(request, "training")).lineage[_LINEAGE])
    data = pipeline.spec.table
    scale = LabelScale(**fitted["scale"])
    inputs = TableInputs.shaped(data, tuple(fitted["means"]), tuple(fitted["stds"]))
    return table_problem(
        data,
        inputs,
        open_set(store, _key(request, "training")),
        open_set(store, _key(request, "validation")),
    ), scale


def table_problem(data: TableSpec, inputs: TableInputs, training: SampleSet, validation: SampleSet) -> Problem:
    """The problem of samples with the columns that `write_table` writes."""
    label = data.label
    return Problem(inputs, training, validation, _divide, lambda outputs, targets: loss_of(outputs, targets, label))


def write_table(writer: ShardWriter, rows: pd.DataFrame, data: TableSpec, scale: LabelScale) -> None:
    """Append labelled rows, encoded."""
    block: dict[str, Any] = {TARGET: ((labels(rows, data) - scale.mean) / scale.std).astype(np.float32)}
    if data.numeric:
        block["numeric"] = numeric_array(rows, data)
    if data.categorical:
        block["categorical"] = categorical_array(rows, data).astype(np.int32)
    writer.write(block)


def table_columns(data: TableSpec) -> list[Column]:
    """What a sample of a table consists of."""
    columns = [Column(TARGET, "<f4")]
    if data.numeric:
        columns.append(Column("numeric", "<f4", (len(data.numeric),)))
    if data.categorical:
        columns.append(Column("categorical", "<i4", (len(data.categorical),)))
    return columns


def loss_of(logits: torch.Tensor, targets: torch.Tensor, label: Label) -> torch.Tensor:
    """Mean loss of a batch: logits [rows, outputs], targets float32 [rows]."""
    if label.kind == "multiclass":
        return functional.cross_entropy(logits, targets.long())
    if label.kind == "binary":
        return functional.binary_cross_entropy_with_logits(logits[:, 0], targets)
    return functional.mse_loss(logits[:, 0], targets)


def _divide(batch: Mapping[str, torch.Tensor]) -> tuple[Inputs, torch.Tensor]:
    targets = batch[TARGET]
    return {
        "numeric": batch["numeric"] if "numeric" in batch else targets.new_zeros(len(targets), 0),
        "categorical": batch["categorical"].long()
        if "categorical" in batch
        else torch.zeros(len(targets), 0, dtype=torch.int64, device=targets.device),
    }, targets


def _fit(store: ObjectStore, staged: StagedSet, data: TableSpec, window: Window) -> dict[str, Any]:
    """Statistics of features and label over the training rows; a missing value does not count."""
    features, target = Moments.of(np.zeros((0, len(data.numeric)))), Moments.of(np.zeros((0, 1)))
    for rows in labelled(store, staged, data, window):
        features = features + Moments.of(numeric_array(rows, data).astype(np.float64))
        target = target + Moments.of(labels(rows, data).astype(np.float64)[:, None])
    scale = LabelScale()
    if data.label.kind == "regression":
        std = float(target.std[0])
        scale = LabelScale(float(target.mean[0]), std if std > _SMALLEST_STD else 1.0)
    inputs = TableInputs.of_moments(data, features)
    return {"means": inputs.means, "stds": inputs.stds, "scale": {"mean": scale.mean, "std": scale.std}}


def _encode(
    request: TrainRequest,
    store: ObjectStore,
    data: TableSpec,
    window: Window,
    key: str,
    fitted: Mapping[str, Any],
) -> None:
    columns = table_columns(data)
    per_shard = max(1, _SHARD_BYTES // sum(column.num_bytes for column in columns))
    scale = LabelScale(**fitted["scale"])
    with tempfile.TemporaryDirectory(dir=scratch_dir(request.settings, "encoded")) as folder:
        with ShardWriter(Path(folder), columns, samples_per_shard=per_shard) as writer:
            for rows in labelled(store, request.staged, data, window):
                write_table(writer, rows, data, scale)
        publish(store, key, writer.files, lineage={_LINEAGE: dict(fitted), "window": window.as_dict()})


def _known(store: ObjectStore, request: TrainRequest) -> bool:
    return all(store.find(_key(request, part)) is not None for part in ("training", "validation"))


def _key(request: TrainRequest, part: str) -> str:
    """Made of what the encoded samples depend on: runs that differ in their model only share them."""
    spec = pipeline_on_worker(request.settings, request.pipeline_name).spec
    inputs = [
        request.staged.digest,
        request.staged.as_of.isoformat(),
        getattr(request.split, part).as_dict(),
        request.split.training.as_dict(),
        spec.data.model_dump(mode="json"),
        request.lineage["code"],
    ]
    return f"encoded/{request.pipeline_name}/{part}-{digest_json(inputs)[:24]}"
