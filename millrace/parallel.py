"""How a pipeline's module can be cut over several workers; a pipeline gives this beside its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

TensorStyles = Callable[[bool], Mapping[str, Any]]


@dataclass(frozen=True)
class ParallelPlan:
    """What the trainer must know of a module that it does not know itself.

    Args:
        blocks: Dotted name of the `ModuleDict` of like blocks, in order. A block is what FSDP gathers, what activation
            checkpointing recomputes, what is compiled, and what a pipeline stage has some of. Empty: the whole module
            is one.
        before: Children that run before the first block.
        after: Children that run after the last block. A stage without one of these has None in its place, and the
            module's `forward` leaves it out.
        tensor: Given whether activations between blocks are sharded over the sequence, the parallel style of each
            submodule, by a pattern of its dotted name, as `torch.distributed.tensor.parallel.parallelize_module` takes
            it. None: tensor parallelism is not possible.
        divisible: What the tensor parallel degree must divide, by its name for people.
        flops_per_row: Floating point operations of one row in a training step, without what is recomputed; 0: unknown.
        tokens_per_row: Of texts, the sequence length; 1 for rows of a table.
    """

    blocks: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    tensor: TensorStyles | None = None
    divisible: Mapping[str, int] = field(default_factory=dict)
    flops_per_row: float = 0.0
    tokens_per_row: int = 1
