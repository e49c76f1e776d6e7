"""Remembered answers on a replay in which few rows are asked often: executions saved, and what a hit takes."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.parts import Tell
from benchmarks.serving.fixture import Fixture, make_fixture
from benchmarks.serving.options import Options
from ray_jobs.serve.batching import Answers, Batch, Batcher
from ray_jobs.serve.cache import AnswerCache

#: Distinct rows; row k of them is asked in proportion to 1 / k (Zipf's law with exponent 1).
_ROWS = 20_000
_REQUESTS = 40_000
_CALLERS = 16
_MAX_BYTES = 4_000_000  # some 6,000 answers: a cache that holds all of them would prove nothing


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """`executions_saved` is a share of the rows; times are of one request in the batcher, without HTTP."""
    with tempfile.TemporaryDirectory(prefix="cache-") as folder:
        fixture = make_fixture(Path(folder), versions=1)
        found = asyncio.run(_replay(fixture))
    tell(f"{found['executions_saved']:.1%} of the executions saved; a hit takes {found['hit_ms']:.3f} ms")
    return {"cache": found}


async def _replay(fixture: Fixture) -> dict[str, Any]:
    model = fixture.model(1)
    executed = 0

    def execute(batch: Batch) -> Answers:
        nonlocal executed
        executed += len(batch["numeric"])
        return np.asarray(model.predict(batch["numeric"], batch["categorical"].tolist()), np.float32)

    cache = AnswerCache(_MAX_BYTES, ttl_seconds=3600.0)
    batcher = Batcher(execute, cache=cache)
    rows = _distinct_rows(len(fixture.shape["numeric"]), len(fixture.shape["categorical"]))
    order = _zipf(_ROWS, _REQUESTS, seed=3).tolist()

    async def caller(asked: list[int]) -> None:
        for row in asked:
            await batcher.answer(rows[row])

    await asyncio.gather(*(caller(order[number::_CALLERS]) for number in range(_CALLERS)))
    alone = []
    for _ in range(500):
        began = perf_counter()
        await batcher.answer(rows[0])
        alone.append(perf_counter() - began)
    return {
        "requests": _REQUESTS,
        "distinct_rows": _ROWS,
        "max_bytes": _MAX_BYTES,
        "executions_saved": 1 - executed / _REQUESTS,
        "hit_ms": statistics.median(alone) * 1e3,
        "hit_p99_ms": float(np.quantile(alone, 0.99)) * 1e3,
    }


def _distinct_rows(numeric: int, categorical: int) -> list[Batch]:
    """Encoded rows of which no two are alike."""
    numbers = np.zeros((_ROWS, numeric), np.float32)
    numbers[:, 0] = np.arange(_ROWS)
    indexes = np.ones((1, categorical), np.int64)
    return [{"numeric": numbers[row : row + 1], "categorical": indexes} for row in range(_ROWS)]


def _zipf(rows: int, count: int, seed: int) -> NDArray[np.int64]:
    weights = 1 / np.arange(1, rows + 1)
    return np.random.default_rng(seed).choice(rows, size=count, p=weights / weights.sum())
