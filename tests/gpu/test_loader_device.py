"""On a CUDA device: the tensors are right, and their copies run beside the steps."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from millrace.loader import Loader, StoreSource
from millrace.loader.device import ToCuda
from millrace.shards import Column, ShardWriter, TokenWriter, publish
from millrace.storage import ObjectStore

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_the_tensors_are_right_though_buffers_are_used_again(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "objects"))
    with ShardWriter(tmp_path / "s", [Column("x", "<f4", (64,)), Column("i", "<i8")], samples_per_shard=500) as writer:
        index = np.arange(4000)
        writer.write({"x": np.repeat(index[:, None], 64, axis=1).astype("<f4"), "i": index})
    samples = publish(store, "set", writer.files)
    found = []
    for batch in Loader(samples, StoreSource(store), batch_size=250, seed=1, epochs=2, device="cuda"):
        assert batch.tensors["x"].is_cuda
        found.append((batch.tensors["x"] * 1.0, batch.tensors["i"] * 1))
    assert all((x == i[:, None]).all().item() for x, i in found)
    seen = torch.cat([i for _, i in found]).cpu()
    assert torch.bincount(seen).tolist() == [2] * 4000


def test_tokens_become_int64_on_the_device(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "objects"))
    with TokenWriter(tmp_path / "s", sequence_length=15, vocabulary_size=60_000) as writer:
        writer.write(np.arange(45_000, 45_000 + 15 * 64 + 1))
    samples = publish(store, "set", writer.files, kind=writer.kind)
    rows = torch.cat(
        [
            batch.tensors["tokens"]
            for batch in Loader(samples, StoreSource(store), batch_size=16, seed=1, epochs=1, device="cuda")
        ]
    )
    assert rows.dtype == torch.int64
    assert sorted(rows[:, 0].tolist()) == [45_000 + 15 * row for row in range(64)]


def test_copies_run_beside_the_steps() -> None:
    """Most of a copy's time is gone behind the steps."""
    device = torch.device("cuda")
    layout = {"x": ((64 << 20,), np.dtype("f4"))}
    to_cuda = ToCuda(device, 2, widen=False)
    matrix = torch.randn(8192, 8192, device=device)

    def seconds(copies: bool, steps: bool) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(6):
            if copies:
                placed = to_cuda.place(to_cuda.buffers(layout))
            if steps:
                for _ in range(2):
                    matrix @ matrix
        if copies:
            placed.receive()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    seconds(True, True)
    copies, steps, together = (
        min(seconds(*which) for _ in range(3)) for which in ((True, False), (False, True), (True, True))
    )
    assert copies > 0.05 * steps, "there is something to be hidden"
    assert together < steps + 0.5 * copies
