"""How long a trainer waits for data that lies behind a slow store: by three phases (Mohan et al., "Analyzing and
Mitigating Data Stalls in DNN Training", VLDB 2021): synthetic batches, data in memory, and data in the store.

A read of an object takes 100 ms on average, and one in a hundred 2 s or more. The DataLoader reads an object a sample,
as map-style data sets do, with 16 threads in each worker; workers and prefetch are the best that were found. Ours reads
shards of the same samples, one object each. A step is a sleep. The stall is the share of the time that is not steps.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.parts import Tell
from millrace.loader import Cache, Loader
from millrace.shards import Column, SampleSet, Shard, ShardWriter, publish
from millrace.storage import ObjectStore

BATCH, WIDTH, PER_SHARD, NUM_SAMPLES, STEP_SECONDS = 64, 1024, 256, 12_800, 0.1
_TRIED = ((4, 4), (8, 4), (8, 8))


def latency(chance: random.Random) -> float:
    """Seconds: 100 ms on average; 1.2 in a hundred take 2 s or more."""
    return chance.uniform(2.0, 3.0) if chance.random() < 0.012 else chance.uniform(0.02, 0.122)


class SlowStore:
    """The shards of `store`, each read after a latency."""

    url = "slow://store"

    def __init__(self, store: ObjectStore, *, slow: bool) -> None:
        self.store, self.slow, self.chance = store, slow, random.Random(1)

    def local_path(self, shard: Shard) -> Path | None:
        return None

    def read(self, shard: Shard) -> bytes:
        if self.slow:
            time.sleep(latency(self.chance))
        return self.store.read(shard.key, shard.num_bytes)


class _Objects(torch.utils.data.Dataset[Any]):
    """An object a sample; a batch's objects are read by 16 threads."""

    def __init__(self, *, slow: bool) -> None:
        self.slow, self.row = slow, np.zeros(WIDTH, np.float32)
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitems__(self, index: list[int]) -> torch.Tensor:
        self._threads = self._threads or ThreadPoolExecutor(16)
        return torch.from_numpy(np.stack(list(self._threads.map(self._read, index))))

    def _read(self, _: int) -> Any:
        if self.slow:
            time.sleep(latency(random.Random()))
        return self.row


def measure(tell: Tell, steps: int = 120) -> dict[str, Any]:
    """Seconds a step in each phase, the stall of both, and how much faster ours is."""
    synthetic = _phase(iter([torch.zeros(BATCH, WIDTH)] * (steps + 1)), steps)
    tried = {chosen: _dataloader(*chosen, steps=steps // 3, slow=True) for chosen in _TRIED}
    best = min(tried, key=lambda chosen: tried[chosen])
    theirs = {"cached": _dataloader(*best, steps=steps, slow=False), "cold": _dataloader(*best, steps=steps, slow=True)}
    with tempfile.TemporaryDirectory(prefix="millrace-stall-") as folder:
        store, samples = _staged(Path(folder))
        ours = {name: _ours(Path(folder), store, samples, steps, slow=name == "cold") for name in ("cached", "cold")}
    stalls = [1 - synthetic / phases["cold"] for phases in (theirs, ours)]
    tell(f"stall: DataLoader {stalls[0]:.1%} with {best[0]} workers, ours {stalls[1]:.2%}")
    return {
        "stall": {
            "dataloader": stalls[0],
            "ours": stalls[1],
            "speedup": theirs["cold"] / ours["cold"],
            "seconds_a_step": {"synthetic": synthetic, "dataloader": theirs, "ours": ours},
            "dataloader_tuning": {"workers": best[0], "prefetch_factor": best[1], "threads_a_worker": 16},
        }
    }


def _phase(batches: Iterable[Any], steps: int) -> float:
    """Seconds a step over `steps` steps after the first batch."""
    taken = iter(batches)
    next(taken)
    began = time.perf_counter()
    for _ in range(steps):
        time.sleep(STEP_SECONDS)
        next(taken)
    return (time.perf_counter() - began) / steps


def _as_it_is(batch: torch.Tensor) -> torch.Tensor:
    return batch


def _dataloader(workers: int, prefetch: int, *, steps: int, slow: bool) -> float:
    make: Callable[..., Any] = torch.utils.data.DataLoader
    loader = make(
        _Objects(slow=slow),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=True,
        collate_fn=_as_it_is,
    )
    return _phase(loader, steps)


def _staged(folder: Path) -> tuple[ObjectStore, SampleSet]:
    store = ObjectStore(str(folder / "objects"))
    with ShardWriter(folder / "shards", [Column("x", "<f4", (WIDTH,))], samples_per_shard=PER_SHARD) as writer:
        # Of different content: equal shards would be one file in the cache.
        writer.write({"x": np.random.default_rng(1).random((NUM_SAMPLES, WIDTH), dtype=np.float32)})
    return store, publish(store, "set", writer.files)


def _ours(folder: Path, store: ObjectStore, samples: SampleSet, steps: int, *, slow: bool) -> float:
    cache = Cache(folder / f"cache-{slow}", samples.num_bytes * 3 // 4)
    source = SlowStore(store, slow=slow)
    with Loader(samples, source, batch_size=BATCH, seed=1, cache=cache, window=4) as loader:
        return _phase(loader, steps)
