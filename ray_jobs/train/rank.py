"""A worker's place among those of its run, and what they agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Rank:
    """This worker's rank, how many there are, its device, and groups for what happens beside the training.

    `control_group` and `save_group` hold all ranks and work on the CPU; each has its own line, as what is asked in one
    may be in flight while another is used. None: there is one worker.
    """

    rank: int
    world_size: int
    device: torch.device
    control_group: dist.ProcessGroup | None = None
    save_group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, device: torch.device) -> Rank:
        """This process's place in the default group, or alone; all ranks must ask."""
        if not dist.is_available() or not dist.is_initialized():
            return cls(0, 1, device)
        groups = [dist.new_group(backend="gloo") for _ in range(2)]
        return cls(dist.get_rank(), dist.get_world_size(), device, *groups)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The values, summed over all workers."""
        if self.world_size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, group=self.control_group)
        return [float(number) for number in found]
