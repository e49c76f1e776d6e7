"""A training run of one process, small enough to be run many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from millrace.encoding import TableInputs
from millrace.pipeline import Pipeline
from millrace.storage import ObjectStore
from ray_jobs.train.data import label_scale, tensors
from ray_jobs.train.loop import Fitted, Rank, fit

Fit = Callable[..., Fitted]


@pytest.fixture
def run_fit(write_pipeline: Callable[..., Pipeline], make_rows: Callable[..., pd.DataFrame], tmp_path: Path) -> Fit:
    """Fit the tiny model; `change` alters the spec, `store` names the folder of checkpoints."""

    def run(
        kind: str = "binary",
        change: dict[str, Any] | None = None,
        *,
        store: str = "store",
        report: Callable[[Mapping[str, float]], None] = lambda metrics: None,
        poison: float | None = None,
    ) -> Fitted:
        defaults = {"training.epochs": 4, "training.batch_size": 32, "training.patience_epochs": 10}
        pipeline = write_pipeline(tmp_path, kind, defaults | (change or {}))
        data = pipeline.spec.data
        training, validation = make_rows(kind, 160, seed=1), make_rows(kind, 80, seed=2)
        scale = label_scale(training, data)
        encoded = tensors(training, data, scale)
        if poison is not None:
            encoded.targets[3] = poison
        return fit(
            pipeline,
            TableInputs.fit(training, data),
            encoded,
            tensors(validation, data, scale),
            rank=Rank(0, 1, torch.device("cpu")),
            store=ObjectStore(str(tmp_path / store)),
            checkpoint_prefix="checkpoints/tiny/run",
            report=report,
        )

    return run
