"""How the transformer can be cut over several workers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millrace.parallel import ParallelPlan
from millrace.pipeline import load_module
from millrace.texts import TextInputs


def plan(inputs: TextInputs, options: Mapping[str, Any]) -> ParallelPlan:
    """Heads and the width of the MLP over tensor parallel workers; blocks over stages and FSDP units."""
    sizes = load_module(Path(__file__).parent, "model", "model.build").sizes(options)
    # Chowdhery et al. 2022, appendix B: six operations a parameter and token, and attention, full as counted there.
    per_token = 6 * (sizes.parameters(inputs.vocabulary) - inputs.vocabulary * sizes.width)
    per_token += 12 * sizes.depth * sizes.width * inputs.sequence_length
    return ParallelPlan(
        blocks="layers",
        before=("embed_tokens",),
        after=("norm", "lm_head"),
        tensor=_styles,
        divisible={"heads": sizes.heads, "kv_heads": sizes.kv_heads, "hidden": sizes.hidden},
        flops_per_row=float(per_token) * inputs.sequence_length,
        tokens_per_row=inputs.sequence_length,
    )


def _styles(sequence: bool) -> Mapping[str, Any]:
    """Columns, then rows (Shoeybi et al. 2019); norms on a part of the sequence each (Korthikanti et al. 2022)."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
    )

    between = Shard(1) if sequence else Replicate()

    def gathered() -> PrepareModuleInput:
        return PrepareModuleInput(input_layouts=(between,), desired_input_layouts=(Replicate(),))

    return {
        "embed_tokens": RowwiseParallel(input_layouts=Replicate(), output_layouts=between),
        "layers.*.self_attn": gathered(),
        "layers.*.self_attn.[qkv]_proj": ColwiseParallel(),
        "layers.*.self_attn.o_proj": RowwiseParallel(output_layouts=between),
        "layers.*.mlp": gathered(),
        "layers.*.mlp.gate_proj": ColwiseParallel(),
        "layers.*.mlp.up_proj": ColwiseParallel(),
        "layers.*.mlp.down_proj": RowwiseParallel(output_layouts=between),
        "lm_head": ColwiseParallel(input_layouts=between, output_layouts=Replicate()),
        **({name: SequenceParallel() for name in ("layers.*.*_layernorm", "norm")} if sequence else {}),
    }
