"""Checkpoints of a billion parameters and their moments on one GPU: what a save takes, and how fast one comes back."""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any

import torch

from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints.checkpoints import Checkpoints
from ray_jobs.train.checkpoints.interval import FailureRate, every_steps

if TYPE_CHECKING:
    from benchmarks.parts import Tell

_WIDTH, _LAYERS, _BATCH, _STEPS, _SAVES = 4096, 60, 4096, 40, 3


def measure(tell: Tell) -> dict[str, Any]:
    """All figures, under `checkpoint`; weights and moments are bfloat16."""
    layers = [torch.nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(_LAYERS)]
    module = torch.nn.Sequential(*layers).to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    batch = torch.randn(_BATCH, _WIDTH, device="cuda", dtype=torch.bfloat16)
    _steps(module, optimizer, batch, 3)
    state = dict(module.state_dict())
    for index, parts in enumerate(optimizer.state.values()):
        state |= {f"optimizer.{index}.{name}": value for name, value in parts.items()}
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    plain = _steps(module, optimizer, batch, _STEPS)
    tell(f"{num_bytes / 1e9:.1f} GB of state, {plain / _STEPS * 1e3:.1f} ms a step")
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(ObjectStore(folder), "run/checkpoints", keep=1)
        blocking, totals = [], []
        for number in range(_SAVES):
            began = time.perf_counter()
            checkpoints.save_async(number, state, {})
            blocking.append(time.perf_counter() - began)
            beside = 0.0
            num_steps = 0
            while checkpoints.is_saving or not num_steps:
                beside += _steps(module, optimizer, batch, 1)
                num_steps += 1
            checkpoints.wait()
            totals.append(time.perf_counter() - began)
        slowed = max(0.0, beside - num_steps * plain / _STEPS)
        checkpoints.save_async(_SAVES, state, {})
        checkpoints.wait()
        wanted = {name: tensor.detach().clone() for name, tensor in state.items()}
        for tensor in state.values():
            tensor.detach().zero_()
        began = time.perf_counter()
        checkpoints.load_into(state)
        torch.cuda.synchronize()
        restore = time.perf_counter() - began
        identical = all(torch.equal(state[name], wanted[name]) for name in wanted)
        checkpoints.close()
    # The first save makes the pinned memory; the others are what a run sees.
    lost, step = statistics.median(blocking[1:]) + slowed, plain / _STEPS
    every = every_steps(lost, statistics.median(totals), step, FailureRate())
    return {
        "checkpoint": {
            "state_gb": num_bytes / 1e9,
            "first_blocking_milliseconds": blocking[0] * 1e3,
            "blocking_milliseconds": statistics.median(blocking[1:]) * 1e3,
            "async_loss": lost / (every * step),
            "interval_seconds": every * step,
            "save_mb_per_second": num_bytes / statistics.median(totals) / 1e6,
            "restore_seconds": restore,
            "identical": identical,
        }
    }


def _steps(module: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor, count: int) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        optimizer.zero_grad()
        module(batch).float().square().mean().backward()
        optimizer.step()
    torch.cuda.synchronize()
    return time.perf_counter() - began
