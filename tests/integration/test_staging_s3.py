"""Staging from many files over the real S3 protocol: what is new is read, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import s3fs
import yaml

import ray_jobs.stage.shards
from millrace.errors import SourceError
from millrace.pipeline import Pipeline, load_pipeline
from millrace.settings import Settings
from millrace.signing import Keys
from millrace.storage import ObjectStore
from millrace.table_source import TableSource
from millrace.window import Window
from tests.s3 import s3_server

START = datetime(2024, 1, 1, tzinfo=UTC)
_SPEC = {
    "name": "sales",
    "data": {
        "source": "source:Sales",
        "source_options": {"files": "s3://raw/sales/%Y-%m-%d.csv", "time": "at", "label": "left", "id": "key"},
        "event_time": "at",
        "row_id": "key",
        "features": {"x": {"kind": "numeric", "max": 50.0}},
        "label": {"column": "left", "kind": "binary"},
        "partition": "day",
        "max_quarantined_share": 0.5,
    },
    "evaluation": {"metric": "roc_auc"},
}


@pytest.fixture
def store() -> Iterator[s3fs.S3FileSystem]:
    with s3_server("raw", "objects") as files:
        yield files


@pytest.fixture
def settings(tmp_path: Path, store: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Objects on S3 too. Ray's tasks run in this process: what they do is what is tried, not Ray."""
    made = Settings(state_dir=tmp_path, pipelines_dir=tmp_path / "pipelines", objects_url="s3://objects/millrace")
    Keys(made.signing_key).create()
    folder = tmp_path / "pipelines" / "sales"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(_SPEC))
    (folder / "source.py").write_text("from millrace.partitioned_source import PartitionedSource as Sales\n")
    (folder / "model.py").write_text("def build(inputs, options): ...\n")

    def run_all(settings: Settings, function: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [function(*given) for given in arguments]

    monkeypatch.setattr(ray_jobs.stage.shards, "run_all", run_all)
    return made


def put(files: s3fs.S3FileSystem, days: range) -> None:
    for day in days:
        at = pd.date_range(START + timedelta(days=day), periods=24, freq="h")
        number = np.arange(24) + 24 * day
        rows = pd.DataFrame({"at": at, "key": [f"k{n}" for n in number], "x": number * 1.0, "left": number % 2})
        with files.open(f"raw/sales/{at[0]:%Y-%m-%d}.csv", "w") as file:
            rows.to_csv(file, index=False)


def stage(settings: Settings, days: int) -> tuple[Pipeline, Any]:
    pipeline = load_pipeline("sales", settings.pipelines)
    end = START + timedelta(days=days)
    staged, _ = ray_jobs.stage.shards.stage(settings, pipeline, Window(START, end), end)
    return pipeline, staged


def test_a_new_window_reads_what_is_new(
    settings: Settings, store: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = TableSource._read

    def read(self: TableSource) -> pd.DataFrame:
        opened.append(self.url.rpartition("/")[2])
        return real(self)

    monkeypatch.setattr(TableSource, "_read", read)
    put(store, range(3))
    pipeline, first = stage(settings, 3)
    assert opened == [f"2024-01-0{day}.csv" for day in (1, 2, 3)]
    assert (first.num_rows, first.num_quarantined) == (51, 21), "x above 50"
    put(store, range(3, 5))
    _, second = stage(settings, 5)
    assert opened[3:] == ["2024-01-04.csv", "2024-01-05.csv"]
    assert second.shards[:3] == first.shards
    assert second.num_rows + second.num_quarantined == 5 * 24
    rows = second.read(ObjectStore.of(settings), pipeline.spec.table, second.window)
    assert rows["key"].tolist() == [f"k{n}" for n in range(51)]


def test_a_store_that_is_away_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="no file is called as s3://raw/sales"):
        stage(settings, 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError, match="cannot be looked at") as caught:
        stage(settings, 1)
    assert "credentials" in (caught.value.next or "")
