"""How a model and its batches are spread over the workers of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from millrace.spec.base import Section

Schedule = Literal["GPipe", "1F1B", "Interleaved1F1B"]


class LayoutSpec(Section):
    """The degrees of each kind of parallelism; their product is the number of workers."""

    data_parallel_replicate: int = Field(default=1, ge=1, description="Copies of the model (DDP; with shards, HSDP).")
    data_parallel_shard: int = Field(
        default=1,
        ge=-1,
        description="Workers that share a copy's parameters (FSDP2); -1: all that are left.",
    )
    tensor_parallel: int = Field(default=1, ge=1, description="Workers that share each matrix of a block.")
    sequence_parallel: bool = Field(
        default=False, description="Between blocks, each tensor parallel worker has a part of the sequence only."
    )
    pipeline_parallel: int = Field(default=1, ge=1, description="Stages, each with some of the blocks.")
    pipeline_schedule: Schedule = Field(default="1F1B", description="In what order stages work on microbatches.")
    stages_per_worker: int = Field(
        default=2, ge=2, le=8, description="Stages that each worker has, with Interleaved1F1B."
    )
    microbatches: int | None = Field(
        default=None, ge=1, description="Parts of a worker's batch in a pipeline; none: twice as many as stages."
    )
