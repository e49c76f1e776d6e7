"""What feeding one GPU from shards costs: the same steps on one batch that stays on the GPU, and from the loader."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.gpu.steps import training_engine
from millrace.loader import Loader, StoreSource
from millrace.shards import TokenWriter, publish
from millrace.storage import ObjectStore

if TYPE_CHECKING:
    from benchmarks.parts import Tell

_LENGTH, _ROWS, _STEPS, _WARM = 2048, 16, 60, 8
_SEQUENCES = 6_000


def measure(tell: Tell) -> dict[str, Any]:
    """`stall.ours`: the share of the time from the loader in which the GPU waits."""
    engine = training_engine("125M", _LENGTH)
    tokens = torch.randint(0, 256, (_ROWS, _LENGTH + 1), device="cuda")
    with tempfile.TemporaryDirectory() as folder:
        store = ObjectStore(folder)
        with TokenWriter(Path(folder) / "w", sequence_length=_LENGTH, vocabulary_size=256) as writer:
            writer.write(np.random.default_rng(0).integers(0, 256, _SEQUENCES * (_LENGTH + 1), dtype=np.uint8))
        samples = publish(store, "tokens", writer.files, kind=writer.kind)
        with Loader(samples, StoreSource(store), batch_size=_ROWS, seed=0, device="cuda") as loader:
            batches = iter(loader)
            synthetic: list[float] = []
            loaded: list[float] = []
            for number in range(_WARM + _STEPS):
                # Turn by turn: clocks and temperature are the same for both.
                for seconds, source in ((synthetic, None), (loaded, batches)):
                    torch.cuda.synchronize()
                    began = time.perf_counter()
                    given = tokens if source is None else next(source).tensors["tokens"].long()
                    engine.step(given[:, :-1], given[:, 1:], 3e-4)
                    torch.cuda.synchronize()
                    if number >= _WARM:
                        seconds.append(time.perf_counter() - began)
    alone, fed = statistics.fmean(synthetic), statistics.fmean(loaded)
    tell(f"stall: {alone * 1e3:.1f} ms a step alone, {fed * 1e3:.1f} ms from the loader")
    return {"stall": {"step_seconds": alone, "fed_step_seconds": fed, "ours": max(0.0, 1 - alone / fed)}}
