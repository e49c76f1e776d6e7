"""Gradients of one model over many workers: their norm, clipping, and the scale that keeps FP16 from underflow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

_GROWTH_STEPS = 2000
_LARGEST_SCALE = 2.0**24


@dataclass
class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018): halved when a gradient is not finite, doubled after a while.

    torch's own scaler unscales what one worker has, and knows neither shards nor stages.
    """

    scale: float = 1.0
    is_dynamic: bool = False
    good_steps: int = 0

    @classmethod
    def of(cls, precision: str) -> LossScale:
        return cls(2.0**16, True) if precision == "fp16" else cls()

    def update(self, finite: bool) -> None:
        """After a step; the same on every worker, as the norm is."""
        if not self.is_dynamic:
            return
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps == _GROWTH_STEPS:
            self.scale, self.good_steps = min(2 * self.scale, _LARGEST_SCALE), 0


def squared_norm(parameters: Iterable[nn.Parameter], stages: int) -> torch.Tensor:
    """This worker's part of the squared 2-norm of all gradients: float64, on their device.

    Summed over all workers it counts each element of the whole model once, however that is cut. `parameters` are this
    worker's; a pipeline has `stages` groups of workers with different ones. Gradients that are sums yet to be made
    (Partial) are summed in place.
    """
    from torch.distributed.tensor import DTensor, Replicate

    world = dist.get_world_size() if dist.is_initialized() else 1
    total: torch.Tensor | None = None
    by_copies: dict[float, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            continue
        gradient, copies = parameter.grad, world // stages
        if isinstance(gradient, DTensor):
            if any(placement.is_partial() for placement in gradient.placements):
                settled = [Replicate() if each.is_partial() else each for each in gradient.placements]
                gradient = parameter.grad = gradient.redistribute(placements=settled)
            mesh = gradient.device_mesh
            sharded = math.prod(
                # What is no copy is a part, a strided one too, which does not call itself a shard.
                mesh.size(dim)
                for dim, placement in enumerate(gradient.placements)
                if not placement.is_replicate()
            )
            # Copies of each shard: all workers that have this parameter, over those that share one.
            copies //= sharded
            gradient = gradient.to_local()
        if gradient.numel():
            by_copies.setdefault(float(copies), []).append(gradient)
    for count, gradients in by_copies.items():
        norm = torch.nn.utils.get_total_norm(gradients).double()
        total = norm**2 / count if total is None else total + norm**2 / count
    if total is None:
        device = next((each.device for each in parameters), torch.device("cpu"))
        total = torch.zeros((), dtype=torch.float64, device=device)
    return total


def scale_all(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply all gradients in place."""
    from torch.distributed.tensor import DTensor

    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in found]
    if factor != 1.0 and local:
        torch._foreach_mul_(local, factor)
