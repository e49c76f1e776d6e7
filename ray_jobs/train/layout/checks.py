"""Whether a module can be trained in a layout: asked before any worker starts."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from millrace.errors import ConfigError
from millrace.parallel import ParallelPlan
from millrace.spec import TrainingSpec
from ray_jobs.train.layout.apply import blocks_of
from ray_jobs.train.layout.mesh import Layout, resolve

#: Degrees that a message offers: nobody splits a matrix further.
_MOST = 64


def layout_of(
    spec: TrainingSpec, module: nn.Module, plan: ParallelPlan, world_size: int, memory_bytes: int = 0
) -> Layout:
    """The layout in which the spec has this module trained; `module` may be on the meta device.

    Raises:
        ConfigError: it cannot be.
    """
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    layout = resolve(spec.layout, world_size, num_parameters=num_parameters, memory_bytes=memory_bytes)
    check(layout, plan, len(blocks_of(module, plan)), spec.batch_size, spec.gradient_accumulation)
    return layout


def check(layout: Layout, plan: ParallelPlan, num_blocks: int, batch_size: int, accumulation: int = 1) -> None:
    """Whether this module can be trained in this layout.

    Raises:
        ConfigError: it cannot; all reasons at once, each with what would do.
    """
    reasons = [
        *_tensor_reasons(layout, plan),
        *_stage_reasons(layout, num_blocks, accumulation),
        *_batch_reasons(layout, batch_size, accumulation),
    ]
    if (layout.tensor > 1 or layout.stages > 1) and not plan.blocks:
        reasons = ["the model has no plan of its blocks: set model.plan, or use data parallel degrees only"]
    if reasons:
        raise ConfigError(
            # Not as what was got, which is shortened: all of them are to be seen.
            f"the layout {layout.name} cannot work: {'; '.join(reasons)}",
            next="correct training.layout, training.batch_size or model.options",
        )


def _tensor_reasons(layout: Layout, plan: ParallelPlan) -> Iterator[str]:
    degree = layout.tensor
    if degree == 1:
        return
    if plan.tensor is None:
        yield "its plan has no tensor parallel styles: set tensor_parallel to 1"
    for name, count in plan.divisible.items():
        if count % degree:
            allowed = ", ".join(str(each) for each in range(1, min(count, _MOST) + 1) if count % each == 0)
            yield f"tensor_parallel {degree} does not divide {name} {count} (it may be {allowed})"
    if layout.sequence and plan.tokens_per_row % degree:
        yield f"sequence_parallel: {degree} workers do not share {plan.tokens_per_row} tokens evenly"


def _stage_reasons(layout: Layout, num_blocks: int, accumulation: int) -> Iterator[str]:
    stages, parts = layout.stages, layout.microbatches
    if stages == 1:
        return
    if num_blocks < layout.num_stages:
        yield f"{layout.num_stages} stages for {num_blocks} blocks: there may be {num_blocks} at the most"
    if parts < stages:
        yield f"{parts} microbatches leave some of {stages} stages idle for good: microbatches is at least {stages}"
    if layout.schedule == "Interleaved1F1B" and parts % stages:
        yield f"Interleaved1F1B takes microbatches in rounds of {stages}, got {parts}"
    if accumulation > 1:
        yield "a pipeline accumulates over its microbatches: set gradient_accumulation to 1"


def _batch_reasons(layout: Layout, batch_size: int, accumulation: int) -> Iterator[str]:
    if layout.stages > 1 and batch_size % (layout.data_world * layout.microbatches):
        parts = f"{layout.data_world} x {layout.microbatches} microbatches"
        yield f"batch_size {batch_size} is no multiple of {parts}"
    if batch_size < layout.data_world * accumulation:
        yield f"batch_size {batch_size} is below {layout.data_world} workers x {accumulation} accumulated parts"
