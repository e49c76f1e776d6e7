"""The batcher against every fixed size and wait of a grid, on simulated arrivals; and what it costs a lone caller."""

from __future__ import annotations

import asyncio
import statistics
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.batching import measure as against_fixed_pairs
from benchmarks.parts import Tell
from benchmarks.serving.options import Options
from ray_jobs.serve.batching import Batch, Batcher

_ROW: Batch = {"numeric": np.zeros((1, 20), np.float32), "categorical": np.zeros((1, 6), np.int64)}
_CALLS = 2_000


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """Shares of the best fixed pair's goodput by model, load and pattern, and `lone_added_ms`."""
    found = against_fixed_pairs(tell)
    found["lone_added_ms"] = asyncio.run(_lone(options.rounds)) * 1e3
    tell(f"a lone caller pays {found['lone_added_ms']:.4f} ms")
    return {"batching": found}


async def _lone(rounds: int) -> float:
    """Seconds that a request waits longer by way of the batcher than when the model is called; median of the rounds."""
    answers = np.zeros(1, np.float32)
    batcher = Batcher(lambda batch: answers, target_seconds=0.02)
    added = []
    for _ in range(max(3, rounds)):
        began = perf_counter()
        for _ in range(_CALLS):
            await batcher.answer(_ROW, deadline=batcher.deadline(perf_counter()))
        added.append((perf_counter() - began) / _CALLS)
    return statistics.median(added)
