"""The model as Hugging Face's `LlamaForCausalLM` has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from millrace.export import Exported
from millrace.pipeline import load_module
from millrace.texts import END, TextInputs


def llama(inputs: TextInputs, options: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Exported:
    """Its config.json, and its weights under Llama's names: ours, all but the head's with the prefix `model.`."""
    sizes = load_module(Path(__file__).parent, "model", "model.build").sizes(options)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": inputs.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": inputs.sequence_length,
        "rope_theta": sizes.rope_theta,
        "rms_norm_eps": sizes.norm_eps,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        # A document begins where the one before has ended.
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "torch_dtype": "float32",
    }
    named = {name if name.startswith("lm_head.") else f"model.{name}": tensor for name, tensor in weights.items()}
    return Exported(config, named)
