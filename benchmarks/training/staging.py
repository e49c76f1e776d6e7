"""Staging many rows: how long it takes, and whether memory stays flat while data grows.

Parquet files of equal size, one for each day, are staged by Ray tasks: read, checked against the contract, written.
Counted is what the tasks' processes hold at most, all together: their proportional share of what they share (PSS),
sampled four times a second, less what they hold before they have staged anything. The present way of one table,
`TableSource`, stages the smallest size in the same run.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml

from benchmarks.parts import Tell
from benchmarks.training.scene import Scene, scene
from millrace.pipeline import Pipeline, load_pipeline
from millrace.window import Window
from ray_jobs.cluster import connect, run_all
from ray_jobs.stage.shards import stage

SIZES = (1_000_000, 10_000_000, 50_000_000)
ROWS_A_FILE, FEATURES, WORKERS = 500_000, 6, 2
START = datetime(2024, 1, 1, tzinfo=UTC)
_LOOK_SECONDS = 0.25


def measure(tell: Tell) -> dict[str, Any]:
    """`staging`: by number of rows, seconds and the peak of memory; and how the peak grew at the end."""
    found: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="mr-staging-"))
    try:
        with scene(WORKERS) as place:
            connect(place.settings)
            run_all(place.settings, _warm, [(number,) for number in range(WORKERS)])
            for num_rows in SIZES:
                num_files = num_rows // ROWS_A_FILE
                _write(folder, num_files, tell)
                pipeline = _pipeline(place, "many", "files", f"{folder}/%Y/%m/%d.parquet", num_rows)
                found[str(num_rows)] = _stage(place, pipeline, num_files)
                tell(f"staging: {num_rows:,} rows: {found[str(num_rows)]}")
                if num_rows == SIZES[0]:
                    whole = folder / "whole.parquet"
                    pd.concat(pd.read_parquet(path) for path in sorted(folder.rglob("??.parquet"))).to_parquet(whole)
                    one = _stage(place, _pipeline(place, "one", "table", str(whole), num_rows), num_files)
                    tell(f"staging: {num_rows:,} rows of one table: {one}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    peaks = [found[str(num_rows)]["peak_memory_bytes"] for num_rows in SIZES[-2:]]
    return {"staging": found, "staging_one_table": one, "staging_growth": peaks[1] / peaks[0]}


def _write(folder: Path, num_files: int, tell: Tell) -> None:
    """The first `num_files` days' files, those that are not there yet."""
    for number in range(num_files):
        day = START + timedelta(days=number)
        path = folder / f"{day:%Y/%m/%d}.parquet"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            chance = np.random.default_rng(number)
            rows = pd.DataFrame(chance.standard_normal((ROWS_A_FILE, FEATURES)), columns=_names())
            first = number * ROWS_A_FILE
            rows["at"] = pd.date_range(day, periods=ROWS_A_FILE, freq="170ms")
            rows["id"] = np.arange(first, first + ROWS_A_FILE)
            rows["answer"] = (rows["x0"] > 0).astype(float)
            rows.loc[::1000, "x1"] = 1e9  # breaks the contract
            rows.to_parquet(path, index=False)
    tell(f"staging: {num_files} files written")


def _names() -> list[str]:
    return [f"x{number}" for number in range(FEATURES)]


def _pipeline(place: Scene, name: str, option: str, where: str, num_rows: int) -> Pipeline:
    # A name for each size: what was staged before is not found again.
    name = f"{name}_{num_rows}"
    folder = place.folder / "pipelines" / name
    folder.mkdir(parents=True)
    kind = "PartitionedSource" if option == "files" else "TableSource"
    module = "partitioned_source" if option == "files" else "table_source"
    spec = {
        "name": name,
        "data": {
            "source": f"source:{kind}",
            "source_options": {option: where, "time": "at", "label": "answer", "id": "id"},
            "event_time": "at",
            "row_id": "id",
            "features": {each: {"kind": "numeric", "max": 1e6} for each in _names()},
            "label": {"column": "answer", "kind": "binary"},
            "partition": "day",
        },
        "evaluation": {"metric": "roc_auc"},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec))
    (folder / "source.py").write_text(f"from millrace.{module} import {kind}\n")
    (folder / "model.py").write_text("def build(inputs, options): ...\n")
    return load_pipeline(name, place.settings.pipelines)


def _stage(place: Scene, pipeline: Pipeline, num_files: int) -> dict[str, float]:
    end = START + timedelta(days=num_files)
    with _peak() as peak:
        began = time.perf_counter()
        staged, _ = stage(place.settings, pipeline, Window(START, end), end)
        seconds = time.perf_counter() - began
    num_rows = staged.num_rows + staged.num_quarantined
    if num_rows != num_files * ROWS_A_FILE:
        raise RuntimeError(f"{num_rows} of {num_files * ROWS_A_FILE} rows were staged")
    shutil.rmtree(Path(place.settings.objects) / "staged" / pipeline.name)
    return {
        "seconds": seconds,
        "peak_memory_bytes": float(peak[0]),
        "rows_per_second": num_rows / seconds,
        "quarantined": float(staged.num_quarantined),
    }


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Most memory that Ray's workers hold while the block runs, above what they held at its begin; in bytes."""
    begin, peak, ended = _held(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            peak[0] = max(peak[0], _held() - begin)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def _held() -> int:
    total = 0
    for process in psutil.process_iter(["name", "cmdline"]):
        if "ray::" in " ".join(process.info["cmdline"] or []):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue  # it has ended
    return total


def _warm(number: int) -> int:
    """What every task imports is no part of what staging holds."""
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    return number
