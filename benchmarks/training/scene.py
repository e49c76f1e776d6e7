"""A pipeline, a store and a Ray of their own, in which real trainings run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from millrace.ledger import Ledger, Token
from millrace.pipeline import Pipeline, load_pipeline
from millrace.settings import Settings
from millrace.signing import Keys
from millrace.window import Window
from ray_jobs.stage.shards import stage
from ray_jobs.train.request import Split, TrainRequest, make_request

PIPELINE = "bench"
FEATURES, WIDTH = 32, 1024
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)

_SOURCE = f"""
from datetime import datetime, UTC
import numpy as np, pandas as pd

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)

class Drawn:
    def extent(self):
        return START, END

    def fingerprint(self):
        return "drawn"

    def rows(self, start, end, as_of):
        at = pd.date_range(START, END, freq="4min", inclusive="left")
        values = np.random.default_rng(0).standard_normal((len(at), {FEATURES})).astype(np.float32)
        table = pd.DataFrame(values, columns=[f"x{{n}}" for n in range({FEATURES})])
        table = table.assign(at=at, id=np.arange(len(at)), answer=(values[:, :4].sum(axis=1) > 0).astype(float))
        return table[(table["at"] >= start) & (table["at"] < end)]
"""

#: Also built by the peer: one module, two trainers.
MODEL = f"""
import torch

def build(inputs, options):
    return Deep()

class Deep(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear({FEATURES}, {WIDTH}), torch.nn.ReLU(),
            torch.nn.Linear({WIDTH}, {WIDTH}), torch.nn.ReLU(),
            torch.nn.Linear({WIDTH}, 1),
        )

    def forward(self, batch):
        return self.layers(batch["numeric"])
"""


@dataclass(frozen=True)
class Scene:
    """Settings of a folder of its own, and requests for trainings of the pipeline in it."""

    settings: Settings
    folder: Path

    def pipeline(self, **training: Any) -> Pipeline:
        """The pipeline, with these values in its training section."""
        folder = self.folder / "pipelines" / PIPELINE
        folder.mkdir(parents=True, exist_ok=True)
        spec = {
            "name": PIPELINE,
            "data": {
                "source": "source:Drawn",
                "event_time": "at",
                "row_id": "id",
                "features": {f"x{number}": {"kind": "numeric"} for number in range(FEATURES)},
                "label": {"column": "answer", "kind": "binary"},
            },
            "training": {"validation_days": 1.0, "patience": 10_000, **training},
            "evaluation": {"metric": "roc_auc", "window_days": 1.0, "min_rows": 20},
        }
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec))
        (folder / "source.py").write_text(_SOURCE)
        (folder / "model.py").write_text(MODEL)
        return load_pipeline(PIPELINE, self.settings.pipelines)

    def request(self, pipeline: Pipeline, holder: str) -> TrainRequest:
        """A training of it, under the slot of `holder`."""
        staged, _ = stage(self.settings, pipeline, Window(START, END), END)
        slots = Ledger(self.settings.ledger).slots
        token = slots.take(PIPELINE, "training", holder)
        if not isinstance(token, Token):
            raise RuntimeError(f"the slot is held by {token}")
        split = Split.of(pipeline, staged.window, staged.window.end)
        return make_request(self.settings, pipeline, staged, split, {"code": holder, "lock": "l"}, token)

    def release(self, request: TrainRequest) -> None:
        Ledger(self.settings.ledger).slots.release(request.token)


@contextmanager
def scene(num_cpus: int) -> Iterator[Scene]:
    """With a Ray of its own of so many processors, whatever the machine has."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="mr-train-"))
    settings = Settings(state_dir=folder / "state", pipelines_dir=folder / "pipelines")
    Keys(settings.signing_key).create()
    before = dict(os.environ)
    os.environ |= settings.environment() | {"OMP_NUM_THREADS": "1"}
    os.environ.pop("RAY_ADDRESS", None)
    ray.init("local", num_cpus=num_cpus, namespace="millrace", log_to_driver=False, include_dashboard=False)
    try:
        yield Scene(settings, folder)
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)
