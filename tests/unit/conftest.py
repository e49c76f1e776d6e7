"""A small pipeline of each kind: its spec, its rows, its folder. The fixtures give functions: a test may ask twice."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from millrace.dataset import StagedSet
from millrace.encoding import TableInputs
from millrace.language_model import LanguageModel
from millrace.package import LabelScale, Predictor
from millrace.pipeline import Pipeline, load_pipeline
from millrace.settings import Settings
from millrace.signing import Keys
from millrace.spec import PipelineSpec
from millrace.spec.load import parse_spec
from millrace.text_package import text_inputs
from tests.prose import write_prose

COLOURS = ["red", "green", "blue"]

SOURCE = '''
"""Rows made from their own times, so that every process gives the same ones."""
from datetime import datetime, UTC
import numpy as np, pandas as pd

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)

class Generated:
    def __init__(self, kind="binary", bad=0, fail=""):
        self.kind, self.bad, self.fail = kind, bad, fail

    def extent(self):
        return START, END

    def fingerprint(self):
        return f"{self.kind}-{self.bad}"

    def rows(self, start, end, as_of):
        if self.fail == "raise":
            raise KeyError("no such table")
        if self.fail == "list":
            return [1, 2]
        hours = pd.date_range(START, END, freq="2h", inclusive="left")
        number = np.arange(len(hours))
        inside = (hours >= start) & (hours < end)
        size = ((number * 37) % 100) / 10.0
        table = pd.DataFrame({"at": hours, "id": number, "size": size, "weight": np.sin(number)})
        table["colour"] = np.array(["red", "green", "blue"])[number % 3]
        score = size - 5 + 3 * table["weight"]
        table["answer"] = {
            "binary": (score > 0).astype(float),
            "multiclass": pd.cut(score, [-99, -2, 2, 99], labels=["low", "mid", "high"]).astype(str),
            "regression": 100 + 10 * score,
        }[self.kind]
        table.loc[number % 50 < self.bad, "size"] = -1.0
        table.loc[hours > as_of, "answer"] = None
        return table[inside]
'''

MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, inputs, width, dropout):
        super().__init__()
        self.register_buffer("mean", torch.tensor(inputs.means))
        self.register_buffer("std", torch.tensor(inputs.stds))
        units = len(inputs.numeric) + len(inputs.categorical)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(units, width),
            torch.nn.Tanh(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(width, inputs.outputs),
        )

    def forward(self, batch):
        numeric = torch.nan_to_num((batch["numeric"] - self.mean) / self.std)
        return self.layers(torch.cat([numeric, batch["categorical"].float()], 1))

def build(inputs, options):
    return Tiny(inputs, int(options.get("width", 8)), float(options.get("dropout", 0.0)))
"""


def _document(kind: str) -> dict[str, Any]:
    label: dict[str, Any] = {"column": "answer", "kind": kind}
    if kind == "multiclass":
        label["classes"] = ["low", "mid", "high"]
    return {
        "name": "tiny",
        "data": {
            "source": "source:Generated",
            "source_options": {"kind": kind},
            "event_time": "at",
            "row_id": "id",
            "features": {
                "size": {"kind": "numeric", "min": 0.0, "max": 10.0},
                "weight": {"kind": "numeric", "nullable": True},
                "colour": {"kind": "categorical", "values": COLOURS, "nullable": True},
            },
            "label": label,
        },
        "evaluation": {"metric": {"binary": "roc_auc", "multiclass": "log_loss", "regression": "rmse"}[kind]},
    }


@pytest.fixture(scope="session")
def spec_document() -> Callable[..., dict[str, Any]]:
    """A valid `pipeline.yaml` as a mapping; `change` sets values by dotted path, None removes one."""

    def make(kind: str = "binary", change: dict[str, Any] | None = None) -> dict[str, Any]:
        document = copy.deepcopy(_document(kind))
        for dotted, value in (change or {}).items():
            *parents, last = dotted.split(".")
            section = document
            for part in parents:
                section = section.setdefault(part, {})
            if value is None:
                section.pop(last)
            else:
                section[last] = value
        return document

    return make


@pytest.fixture(scope="session")
def make_spec(spec_document: Callable[..., dict[str, Any]]) -> Callable[..., PipelineSpec]:
    return lambda kind="binary", change=None: parse_spec(spec_document(kind, change))


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., pd.DataFrame]:
    """Rows of January 2024 that keep the contract, with an answer that the features explain in part."""

    def make(kind: str = "binary", num_rows: int = 200, seed: int = 0) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        size, weight = rng.uniform(0, 10, num_rows), rng.normal(size=num_rows)
        score = size - 5 + weight + rng.normal(size=num_rows)
        answers: dict[str, Any] = {
            "binary": (score > 0).astype(np.float64),
            "multiclass": np.array(["low", "mid", "high"], object)[np.digitize(score, [-2, 2])],
            "regression": 100 + 10 * score,
        }
        return pd.DataFrame(
            {
                "at": pd.date_range("2024-01-01", "2024-01-31", periods=num_rows, tz="UTC"),
                "id": np.arange(num_rows),
                "size": size,
                "weight": np.where(rng.random(num_rows) < 0.1, np.nan, weight),
                "colour": rng.choice(COLOURS, num_rows),
                "answer": answers[kind],
            }
        )

    return make


@pytest.fixture(scope="session")
def write_pipeline(spec_document: Callable[..., dict[str, Any]]) -> Callable[..., Pipeline]:
    """Write the folder of pipeline `tiny` below `root`/pipelines and load it."""

    def make(
        root: Path,
        kind: str = "binary",
        change: dict[str, Any] | None = None,
        *,
        model: str = MODEL,
        source: str = SOURCE,
    ) -> Pipeline:
        folder = root / "pipelines" / "tiny"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec_document(kind, change), sort_keys=False))
        (folder / "model.py").write_text(model)
        (folder / "source.py").write_text(source)
        return load_pipeline("tiny", folder.parent)

    return make


@pytest.fixture
def tiny(write_pipeline: Callable[..., Pipeline], tmp_path: Path) -> Pipeline:
    return write_pipeline(tmp_path)


@pytest.fixture
def local_settings(tmp_path: Path) -> Settings:
    """Settings whose state, pipelines and keys lie below the test's folder; there is no state yet."""
    settings = Settings(
        state_dir=tmp_path / "state",
        pipelines_dir=tmp_path / "pipelines",
        signing_key_file=tmp_path / "keys" / "signing.key",
    )
    Keys(settings.signing_key).create()
    return settings


@pytest.fixture(scope="session")
def make_predictor() -> Callable[..., Predictor]:
    """An unfitted model of a pipeline with the statistics of `rows`."""

    def make(pipeline: Pipeline, rows: pd.DataFrame, *, seed: int = 0, scale: LabelScale | None = None) -> Predictor:
        import torch

        torch.manual_seed(seed)
        inputs = TableInputs.fit(rows, pipeline.spec.data)
        module = pipeline.build_model(inputs, pipeline.spec.model.options).eval()
        return Predictor(pipeline.spec, module, scale or LabelScale())

    return make


@pytest.fixture
def prose(tmp_path: Path) -> Pipeline:
    """A pipeline that learns from texts, in the folder of `local_settings`."""
    return write_prose(tmp_path / "pipelines")


@pytest.fixture(scope="session")
def make_language_model() -> Callable[..., LanguageModel]:
    """An unfitted model of a pipeline that learns from texts."""

    def make(pipeline: Pipeline, seed: int = 0) -> LanguageModel:
        import torch

        torch.manual_seed(seed)
        return LanguageModel(
            pipeline.spec, pipeline.build_model(text_inputs(pipeline.spec), pipeline.spec.model.options).eval()
        )

    return make


@pytest.fixture
def staged_prose(prose: Pipeline, local_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> StagedSet:
    """The documents of `prose`, staged in this process."""
    from ray_jobs.stage import shards

    def run_all(_: Settings, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [function(*given) for given in arguments]

    monkeypatch.setattr(shards, "run_all", run_all)
    extent = shards.source_extent(prose)
    return shards.stage(local_settings, prose, extent, extent.end)[0]
