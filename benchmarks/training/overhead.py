"""What Ray Train and all that goes on beside the steps cost, against the same steps in plain torch.

Both train one module on the same number of processes with DistributedDataParallel over gloo, with the same batches a
step: plain torch from tensors in memory, ours with loader, checkpoints, beats and accounts. They take turns; compared
are the medians of the seconds a step, start-up left out.
"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional

from benchmarks.parts import Tell
from benchmarks.training.scene import FEATURES, MODEL, Scene, scene
from millrace.storage import ObjectStore
from ray_jobs.train.run import train

WORKERS, BATCH, STEPS, ROUNDS = 2, 768, 120, 3
_ROUND_STEPS = 20


def measure(tell: Tell) -> dict[str, Any]:
    """`overhead_vs_torch`: the share by which a step of ours is longer."""
    ours, plain = [], []
    with scene(WORKERS + 1) as place:
        for number in range(ROUNDS):
            ours += _ours(place, f"round-{number}")
            plain += _plain()
            tell(f"overhead: ours {statistics.median(ours):.4f} s a step, torch {statistics.median(plain):.4f}")
    mine, theirs = statistics.median(ours), statistics.median(plain)
    return {
        "overhead_vs_torch": mine / theirs - 1,
        "overhead": {"step_seconds": mine, "torch_step_seconds": theirs, "workers": WORKERS, "rounds": ROUNDS},
    }


def _ours(place: Scene, holder: str) -> list[float]:
    """Seconds a step of each round of steps, without the first one."""
    pipeline = place.pipeline(
        num_workers=WORKERS, batch_size=BATCH, max_steps=STEPS, epochs=1000, validate_every_steps=_ROUND_STEPS
    )
    request = place.request(pipeline, holder)
    try:
        train(request, pipeline)
    finally:
        place.release(request)
    history = ObjectStore.of(place.settings).get(request.package_key).lineage["history"]
    return [BATCH / each["rows_per_second"] for each in history[1:]]


def _plain() -> list[float]:
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        mp.spawn(_plain_worker, (port, folder), nprocs=WORKERS)  # type: ignore[no-untyped-call]
        return [float(line) for line in (Path(folder) / "seconds").read_text().split()]


def _plain_worker(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(WORKERS)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(MODEL, names)
    model = torch.nn.parallel.DistributedDataParallel(names["build"](None, {}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    rows, targets = torch.randn(BATCH * 20, FEATURES), torch.rand(BATCH * 20).round()
    share, seconds = BATCH // WORKERS, []
    for part in range(STEPS // _ROUND_STEPS):
        began = time.perf_counter()
        for step in range(_ROUND_STEPS):
            start = (step % 20) * BATCH + rank * share
            loss = functional.binary_cross_entropy_with_logits(
                model({"numeric": rows[start : start + share]})[:, 0], targets[start : start + share]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        if part:
            seconds.append((time.perf_counter() - began) / _ROUND_STEPS)
    if rank == 0:
        (Path(folder) / "seconds").write_text("\n".join(map(str, seconds)))
    dist.destroy_process_group()
