"""Cutting a module: stages, tensor parallelism, recomputation, compilation, sharded data parallelism, in that order."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from millrace.errors import ConfigError
from millrace.parallel import ParallelPlan
from ray_jobs.train.layout.mesh import Layout

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Recompute = Literal["none", "selective", "full"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Memory:
    """Arithmetic of the forward pass, and what of it is kept for the backward pass."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    recompute: Recompute = "none"
    compile: bool = False


def blocks_of(module: nn.Module, plan: ParallelPlan) -> nn.ModuleDict:
    """The blocks; none when the plan has none.

    Raises:
        ConfigError: what the plan names is no `ModuleDict`.
    """
    found = module.get_submodule(plan.blocks) if plan.blocks else nn.ModuleDict()
    if not isinstance(found, nn.ModuleDict):
        raise ConfigError(
            f"the plan's blocks, '{plan.blocks}', can be cut nowhere",
            got=type(found).__name__,
            allowed="a torch.nn.ModuleDict of like blocks, in order",
            next="correct the module or its plan",
        )
    return found


def stage(module: nn.Module, plan: ParallelPlan, index: int, count: int) -> nn.Module:
    """Stage `index` of `count`: some of the blocks, under the names that they have in the whole."""
    found = copy.deepcopy(module)
    names = list(blocks_of(found, plan))
    mine = names[len(names) * index // count : len(names) * (index + 1) // count]
    blocks = blocks_of(found, plan)
    for name in names:
        if name not in mine:
            del blocks[name]
    absent = (*(plan.before if index else ()), *(plan.after if index < count - 1 else ()))
    for name in absent:
        setattr(found, name, None)
    return found


def apply(module: nn.Module, plan: ParallelPlan, layout: Layout, mesh: DeviceMesh | None, memory: Memory) -> nn.Module:
    """Cut a module, or a stage of one, in place; what comes back is what to call. A lone worker has no mesh."""
    if mesh is not None and layout.tensor > 1:
        _tensor_parallel(module, plan, layout, mesh["tp"])
    recompute_blocks(module, plan, memory.recompute)
    compile_blocks(module, plan, memory.compile)
    if mesh is not None and not layout.is_plain:
        _shard(module, plan, layout, mesh, memory)
    elif mesh is not None:
        devices = [next(module.parameters()).device] if next(module.parameters()).device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)
    return module


def _tensor_parallel(module: nn.Module, plan: ParallelPlan, layout: Layout, mesh: DeviceMesh) -> None:
    from torch.distributed.tensor.parallel import parallelize_module

    present = {name for name, _ in module.named_modules()}
    all_styles = plan.tensor(layout.sequence) if plan.tensor is not None else {}
    styles = {name: style for name, style in all_styles.items() if _matches(name, present)}
    parallelize_module(module, mesh, styles)
    _replicate_the_rest(module, mesh)


def _matches(pattern: str, names: set[str]) -> bool:
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, pattern) for name in names)


def _replicate_the_rest(module: nn.Module, mesh: DeviceMesh) -> None:
    """Parameters that no style has cut, the same on each worker of `mesh`: all parameters are of one kind then."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_module

    for child in module.modules():
        own = dict(child.named_parameters(recurse=False))
        if own and not any(isinstance(parameter, DTensor) for parameter in own.values()):

            def to_replicated(_: nn.Module, inputs: Any, mesh: DeviceMesh) -> Any:
                return tuple(
                    each
                    if isinstance(each, DTensor)
                    else DTensor.from_local(each, mesh, [Replicate()], run_check=False)
                    for each in inputs
                )

            def to_local(_: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
                return output.to_local() if isinstance(output, DTensor) else output

            distribute_module(child, mesh, input_fn=to_replicated, output_fn=to_local)


def compile_blocks(module: nn.Module, plan: ParallelPlan, wanted: bool) -> None:
    """Compile each block by itself, in place: like blocks are compiled once."""
    for block in (list(blocks_of(module, plan).values()) or [module]) if wanted else []:
        block.compile()


def recompute_blocks(module: nn.Module, plan: ParallelPlan, kind: Recompute) -> None:
    """Have each block's activations recomputed in the backward pass: all of them, some, or none."""
    if kind == "none":
        return
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    blocks = blocks_of(module, plan)
    options: Mapping[str, Any] = {"context_fn": _keep_some} if kind == "selective" else {}
    for name, block in list(blocks.items()):
        blocks[name] = checkpoint_wrapper(block, **options)


def _keep_some() -> Any:
    """Keep attention and every other matrix product, recompute the rest (as torchtitan's selective policy does)."""
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
    products = {"forward": 0, "recompute": 0}

    def policy(context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        is_product = operator in (aten.mm.default, aten.linear.default)
        when = "recompute" if context.is_recompute else "forward"
        products[when] += is_product
        keeps = operator in attention or (is_product and products[when] % 2 == 1)
        return CheckpointPolicy.MUST_SAVE if keeps else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


def _shard(module: nn.Module, plan: ParallelPlan, layout: Layout, mesh: DeviceMesh, memory: Memory) -> None:
    """FSDP2 over the data parallel workers: blocks first, then the rest; with copies, HSDP."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if layout.data_world == 1 and memory.precision == "fp32":
        return
    over = mesh["dp_replicate", "dp_shard"] if layout.replicate > 1 else mesh["dp_shard"]
    dtype = None if memory.precision == "fp32" else DTYPES[memory.precision]
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    # In a pipeline each microbatch would gather the parameters again.
    reshard = layout.stages == 1
    for block in blocks_of(module, plan).values():
        fully_shard(block, mesh=over, mp_policy=policy, reshard_after_forward=reshard)
    fully_shard(module, mesh=over, mp_policy=policy, reshard_after_forward=reshard)
