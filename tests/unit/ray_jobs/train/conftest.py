"""A training run of one process, small enough to be run many times."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from millrace.encoding import TableInputs
from millrace.package import LabelScale
from millrace.pipeline import Pipeline
from millrace.shards import ShardWriter, publish
from millrace.storage import ObjectStore
from ray_jobs.train.loop import Fitted, Place, fit
from ray_jobs.train.notice import Notice
from ray_jobs.train.rank import Rank
from ray_jobs.train.table_problem import table_columns, table_problem, write_table

Fit = Callable[..., Fitted]


@pytest.fixture
def run_fit(write_pipeline: Callable[..., Pipeline], make_rows: Callable[..., pd.DataFrame], tmp_path: Path) -> Fit:
    """Fit the tiny model; `change` alters the spec, `store` names the folder of checkpoints."""
    made = iter(range(1000))

    def run(
        kind: str = "binary",
        change: dict[str, Any] | None = None,
        *,
        store: str = "store",
        report: Callable[[Mapping[str, float]], None] = lambda metrics: None,
        poison: float | None = None,
        notice: threading.Event | None = None,
    ) -> Fitted:
        defaults = {"training.epochs": 4, "training.batch_size": 32, "training.patience": 10}
        pipeline = write_pipeline(tmp_path, kind, defaults | (change or {}))
        data = pipeline.spec.data
        training, validation = make_rows(kind, 160, seed=1), make_rows(kind, 80, seed=2)
        scale = LabelScale(10.0, 5.0) if kind == "regression" else LabelScale()
        if poison is not None:
            training.loc[3, data.label.column] = poison
        folder = tmp_path / f"run-{next(made)}"
        root = ObjectStore(str(tmp_path / store))
        sets = []
        for name, rows in (("training", training), ("validation", validation)):
            written = folder / name
            with ShardWriter(written, table_columns(data), samples_per_shard=64) as writer:
                write_table(writer, rows, data, scale)
            sets.append(publish(root, f"encoded/{name}", writer.files))
        return fit(
            pipeline,
            table_problem(data, TableInputs.fit(training, data), *sets),
            Rank(0, 1, torch.device("cpu")),
            Place(root, "checkpoints/tiny/run", report=report, notice=Notice(notice)),
        )

    return run
