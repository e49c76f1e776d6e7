"""The degrees of a layout, and the mesh of the workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from millrace.errors import ConfigError
from millrace.spec.layout import LayoutSpec, Schedule

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

#: Bytes of a parameter in mixed precision with Adam: weights, gradients, master weights, two moments (ZeRO: Rajbhandari
#: et al. 2020).
STATE_BYTES = 16
#: Part of a worker's memory that its state may take when every worker has all of it.
_STATE_SHARE = 0.5

DIMENSIONS = ("pp", "dp_replicate", "dp_shard", "tp")


@dataclass(frozen=True)
class Layout:
    """A layout without open ends, for a number of workers."""

    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    stages: int = 1
    sequence: bool = False
    schedule: Schedule = "1F1B"
    stages_per_worker: int = 1
    microbatches: int = 1

    @property
    def world_size(self) -> int:
        return self.replicate * self.shard * self.tensor * self.stages

    @property
    def data_world(self) -> int:
        """How many workers have batches of their own."""
        return self.replicate * self.shard

    @property
    def num_stages(self) -> int:
        """Stages of the pipeline, over all of its workers."""
        return self.stages * self.stages_per_worker

    @property
    def is_plain(self) -> bool:
        """Whether each worker has the whole model."""
        return self.shard == self.tensor == self.stages == 1

    @property
    def name(self) -> str:
        """Short, for tables and logs."""
        parts = [
            f"dp{self.replicate}" if self.replicate > 1 else "",
            f"fsdp{self.shard}" if self.shard > 1 else "",
            f"tp{self.tensor}{'sp' if self.sequence else ''}" if self.tensor > 1 else "",
            f"pp{self.stages}-{self.schedule}-{self.microbatches}" if self.stages > 1 else "",
        ]
        return "+".join(part for part in parts if part) or "single"


def resolve(
    spec: LayoutSpec | Literal["auto"], world_size: int, *, num_parameters: int = 0, memory_bytes: int = 0
) -> Layout:
    """The layout that the spec means for so many workers.

    `auto` is data parallel while a worker's memory has room for the whole state twice, else all of it sharded (FSDP).

    Raises:
        ConfigError: the degrees do not make up the number of workers.
    """
    if spec == "auto":
        fits = not memory_bytes or num_parameters * STATE_BYTES <= _STATE_SHARE * memory_bytes
        return Layout(replicate=world_size) if fits else Layout(shard=world_size)
    others = spec.data_parallel_replicate * spec.tensor_parallel * spec.pipeline_parallel
    shard = spec.data_parallel_shard if spec.data_parallel_shard > 0 else max(1, world_size // others)
    interleaved = spec.pipeline_parallel > 1 and spec.pipeline_schedule == "Interleaved1F1B"
    stages_per_worker = spec.stages_per_worker if interleaved else 1
    stages = spec.pipeline_parallel * stages_per_worker
    found = Layout(
        replicate=spec.data_parallel_replicate,
        shard=shard,
        tensor=spec.tensor_parallel,
        stages=spec.pipeline_parallel,
        sequence=spec.sequence_parallel and spec.tensor_parallel > 1,
        schedule=spec.pipeline_schedule,
        stages_per_worker=stages_per_worker,
        microbatches=1 if spec.pipeline_parallel == 1 else spec.microbatches or 2 * stages,
    )
    if spec.data_parallel_shard == 0 or found.world_size != world_size:
        raise ConfigError(
            "training.layout does not make up the workers",
            got=f"{found.replicate} x {spec.data_parallel_shard} x {found.tensor} x {found.stages} "
            "(data_parallel_replicate, data_parallel_shard, tensor_parallel, pipeline_parallel) "
            f"for {world_size} workers",
            allowed=f"degrees whose product is {world_size}",
            next="correct the degrees or training.num_workers; data_parallel_shard -1 takes all that are left",
        )
    return found


def build_mesh(layout: Layout, device_type: str) -> DeviceMesh:
    """The mesh of all workers, with the dimensions `DIMENSIONS`."""
    from torch.distributed.device_mesh import init_device_mesh

    shape = (layout.stages, layout.replicate, layout.shard, layout.tensor)
    return init_device_mesh(device_type, shape, mesh_dim_names=DIMENSIONS)
