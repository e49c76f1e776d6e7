"""How fast a training goes, and how much of its device that takes."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from millrace.parallel import ParallelPlan
from ray_jobs.train.layout.apply import DTYPES

#: Rows and columns of the product that tells the peak, large enough that a faster one is hard to find.
_WIDTH = {"cuda": 8192, "cpu": 512}
_WARM, _ROUNDS = 2, 5
#: What `getrusage` counts memory in.
_KIB = 1024


@dataclass(frozen=True)
class Speed:
    """What is known of a training before it begins, that its rate can be told in other units.

    Args:
        flops_per_row: Floating point operations of one row in a training step, without what is recomputed.
        tokens_per_row: 1 for rows of a table.
        peak_flops: FLOP/s of a large matrix product on this worker's device.
    """

    flops_per_row: float
    tokens_per_row: int
    world_size: int
    device: torch.device
    peak_flops: float

    @classmethod
    def of(
        cls, module: torch.nn.Module, plan: ParallelPlan, world_size: int, device: torch.device, dtype: str
    ) -> Speed:
        """Of a whole module, not a part of it, that is trained in `fp32`, `bf16` or `fp16`."""
        flops = plan.flops_per_row or flops_of(module)
        return cls(flops, plan.tokens_per_row, world_size, device, peak_flops(device, DTYPES[dtype]))

    def metrics(self, rows_per_second: float) -> dict[str, float]:
        """Rows and tokens a second of all workers; `mfu`, FLOP/s of a worker as a share of the peak; peak memory.

        Model FLOPs utilisation is that of Chowdhery et al. 2022, of a peak that was measured, not of a data sheet's.
        """
        found = {"rows_per_second": rows_per_second}
        if self.tokens_per_row > 1:
            found["tokens_per_second"] = rows_per_second * self.tokens_per_row
        found["mfu"] = rows_per_second * self.flops_per_row / self.world_size / self.peak_flops
        found["peak_memory_bytes"] = peak_memory_bytes(self.device)
        return found


def flops_of(module: torch.nn.Module) -> float:
    """FLOPs of one row in a training step when nobody says: six for each weight that multiplies (Kaplan et al. 2020).

    Right for layers that see a row once; an embedding is looked up, and what has fewer than two dimensions is added.
    """
    tables = torch.nn.Embedding | torch.nn.EmbeddingBag
    embedded = {id(each.weight) for each in module.modules() if isinstance(each, tables)}
    multiplied = (each for each in module.parameters() if each.dim() > 1 and id(each) not in embedded)
    return 6.0 * sum(each.numel() for each in multiplied)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, median of some."""
    width = _WIDTH["cuda" if device.type == "cuda" else "cpu"]
    # Of its own, as what a training draws must depend on its step only.
    drawn = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(width, width, device=device, generator=drawn).to(dtype) for _ in range(2))
    seconds = [_seconds(lambda: left @ right, device) for _ in range(_WARM + _ROUNDS)][_WARM:]
    return 2 * width**3 / statistics.median(seconds)


def peak_memory_bytes(device: torch.device) -> float:
    """The most that tensors took on a GPU, or this process on a machine without one."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
