"""MosaicML streaming and WebDataset on the same rows: what their documentation says to do, timed.

Runs in the peers' environment. MDS shuffles with its default algorithm, WebDataset with a buffer; both get 0 and 2
worker processes, and the better one counts.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import tarfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.training.local_data import BATCH, NUM_ROWS, PER_SHARD, WIDTH, rows


def _streaming() -> Any:
    # It imports torchvision for data sets of images that are not measured; no build of it fits this torch.
    importlib.import_module("transformers")  # it looks for the real one first

    for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]
    return importlib.import_module("streaming")


def write_mds(folder: str) -> dict[str, float]:
    streaming, content = _streaming(), rows()
    began = time.perf_counter()
    with streaming.MDSWriter(
        out=f"{folder}/mds",
        columns={"x": f"ndarray:float32:{WIDTH}"},
        hashes=["sha256"],
        size_limit=PER_SHARD * WIDTH * 4,
    ) as writer:
        for row in content:
            writer.write({"x": row})
    return {"seconds": time.perf_counter() - began}


def read_mds(folder: str) -> dict[str, float]:
    streaming = _streaming()

    def batches(workers: int) -> Any:
        data = streaming.StreamingDataset(
            local=f"{folder}/mds", shuffle=True, batch_size=BATCH, shuffle_seed=1, num_canonical_nodes=1
        )
        return _loader(data, workers, batch_size=BATCH)

    return {"rate": max(_rate(batches(workers), lambda batch: len(batch["x"])) for workers in (0, 2))}


def write_webdataset(folder: str) -> dict[str, float]:
    content, target = rows(), Path(folder) / "wds"
    target.mkdir()
    began = time.perf_counter()
    for start in range(0, NUM_ROWS, PER_SHARD):
        with tarfile.open(target / f"{start // PER_SHARD:06d}.tar", "w") as tar:
            for index in range(start, start + PER_SHARD):
                buffer = io.BytesIO()
                np.save(buffer, content[index])
                info = tarfile.TarInfo(f"{index:08d}.npy")
                info.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(info, buffer)
    return {"seconds": time.perf_counter() - began}


def read_webdataset(folder: str) -> dict[str, float]:
    webdataset = importlib.import_module("webdataset")

    last = NUM_ROWS // PER_SHARD - 1

    def batches(workers: int) -> Any:
        data = (
            webdataset.WebDataset(f"{folder}/wds/{{000000..{last:06d}}}.tar", shardshuffle=100, empty_check=False)
            .shuffle(1000)
            .decode()
            .to_tuple("npy")
            .batched(BATCH)
        )
        return _loader(data, workers, batch_size=None)

    return {"rate": max(_rate(batches(workers), lambda batch: len(batch[0])) for workers in (0, 2))}


def _loader(data: Any, workers: int, *, batch_size: int | None) -> Any:
    more: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    return torch.utils.data.DataLoader(data, batch_size=batch_size, num_workers=workers, **more)


def _rate(loader: Any, size: Any) -> float:
    """Rows a second in the second epoch: the first starts the workers and warms the page cache."""
    for _ in loader:
        pass
    began, count = time.perf_counter(), 0
    for batch in loader:
        count += size(batch)
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps({name: f for name, f in globals().items() if callable(f)}[sys.argv[1]](*sys.argv[2:])))
