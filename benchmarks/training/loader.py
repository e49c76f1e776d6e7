"""Rows a second from this machine's disk: ours, torch's DataLoader, MDS, WebDataset, and a plain copy of the bytes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.parts import Tell
from benchmarks.training.conversion import convert
from benchmarks.training.local_data import BATCH, NUM_BYTES, NUM_ROWS, WIDTH
from benchmarks.training.local_peers import peer
from millrace.loader import Loader, StoreSource
from millrace.shards import SampleSet, open_set
from millrace.storage import ObjectStore

_REPEATS = 2


def measure(tell: Tell) -> dict[str, Any]:
    """Each from a warm page cache in its second epoch; ours and the copy also from a cold one, digests checked."""
    with tempfile.TemporaryDirectory(prefix="millrace-loader-", dir="/var/tmp") as folder:
        convert(Path(folder))
        store = ObjectStore(f"{folder}/objects")
        samples = open_set(store, "set")
        paths = [Path(f"{folder}/objects") / shard.key for shard in samples.shards]
        peer("write_mds", folder)
        peer("write_webdataset", folder)
        rates = {"dataloader": 0.0, "mds": 0.0, "webdataset": 0.0, "ours": 0.0, "ours_cold": 0.0}
        rates |= {"copy_cold": 0.0, "copy_warm": 0.0}
        for _ in range(_REPEATS):
            found = {
                "copy_cold": _copied(paths, cold=True),
                "ours_cold": _cold(store, samples, paths),
                "copy_warm": _copied(paths, cold=False),
                "ours": _warm(store, samples),
                "dataloader": max(_dataloader(paths, workers) for workers in (0, 1, 2)),
                "mds": peer("read_mds", folder)["rate"],
                "webdataset": peer("read_webdataset", folder)["rate"],
            }
            rates = {name: max(rates[name], rate) for name, rate in found.items()}
    tell(", ".join(f"{name} {rate:.0f} rows/s" for name, rate in rates.items()))
    return {
        "loader": {
            "rows_per_second": rates,
            "vs_dataloader": rates["ours"] / rates["dataloader"],
            "vs_mds": rates["ours"] / rates["mds"],
            "vs_webdataset": rates["ours"] / rates["webdataset"],
            "share_of_copy_cold": rates["ours_cold"] / rates["copy_cold"],
            "share_of_copy_warm": rates["ours"] / rates["copy_warm"],
        }
    }


def _warm(store: ObjectStore, samples: SampleSet) -> float:
    loader, epochs = Loader(samples, StoreSource(store), batch_size=BATCH, seed=1, epochs=2), []
    for batch in loader:
        if batch.step % loader.steps_per_epoch == 0:
            epochs.append(time.perf_counter())
    return NUM_ROWS / (time.perf_counter() - epochs[1])


def _cold(store: ObjectStore, samples: SampleSet, paths: list[Path]) -> float:
    _forget(paths)
    began = time.perf_counter()
    for _ in Loader(samples, StoreSource(store), batch_size=BATCH, seed=1, epochs=1):
        pass
    return NUM_ROWS / (time.perf_counter() - began)


def _copied(paths: list[Path], *, cold: bool) -> float:
    """Rows' worth of bytes a second that one thread reads into a buffer, file after file."""
    if cold:
        _forget(paths)
    buffer = bytearray(4 << 20)
    began = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return NUM_BYTES / WIDTH / 4 / (time.perf_counter() - began)


def _forget(paths: list[Path]) -> None:
    """Drop the files' pages from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Rows(torch.utils.data.Dataset[Any]):
    """The rows by index, a batch at a time: what a tuned map-style data set does."""

    def __init__(self, paths: list[Path]) -> None:
        self.maps = [np.memmap(path, np.float32, "r", 4096).reshape(-1, WIDTH) for path in paths]
        self.per_shard = len(self.maps[0])

    def __len__(self) -> int:
        return sum(map(len, self.maps))

    def __getitems__(self, index: list[int]) -> torch.Tensor:
        places = np.asarray(index)
        shards, rows = places // self.per_shard, places % self.per_shard
        out = np.empty((len(places), WIDTH), np.float32)
        for shard in np.unique(shards):
            where = shards == shard
            out[where] = self.maps[shard][rows[where]]
        return torch.from_numpy(out)


def _as_it_is(batch: torch.Tensor) -> torch.Tensor:
    return batch


def _dataloader(paths: list[Path], workers: int) -> float:
    more: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    make: Callable[..., Any] = torch.utils.data.DataLoader
    loader = make(_Rows(paths), batch_size=BATCH, shuffle=True, num_workers=workers, collate_fn=_as_it_is, **more)
    for _ in loader:
        pass
    began = time.perf_counter()
    for _ in loader:
        pass
    return NUM_ROWS / (time.perf_counter() - began)
