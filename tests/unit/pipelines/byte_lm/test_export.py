"""What is exported is a Llama: a forward pass written from the configuration and the names alone gives our logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from millrace.export import write
from millrace.pipeline import load_pipeline
from millrace.texts import TextInputs

PIPELINES = Path(__file__).parents[4] / "pipelines"
INPUTS = TextInputs(256, 32)
OPTIONS = {"width": 48, "depth": 3, "heads": 6, "kv_heads": 2, "hidden": 40, "rope_theta": 5000.0, "norm_eps": 1e-6}


def llama(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    """Logits [length, vocabulary] of tokens [length] as `LlamaForCausalLM` computes them from a folder's two files."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_act"], config["attention_bias"], config["mlp_bias"]) == ("silu", False, False)
    left = {name: tensor.double() for name, tensor in safetensors.torch.load_file(folder / "model.safetensors").items()}
    heads, shared = config["num_attention_heads"], config["num_attention_heads"] // config["num_key_value_heads"]
    length, width = len(tokens), config["head_dim"]

    def take(name: str, *shape: int) -> torch.Tensor:
        tensor = left.pop(name)
        assert tuple(tensor.shape) == shape, name
        return tensor

    def norm(rows: torch.Tensor, name: str) -> torch.Tensor:
        scaled = rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"])
        return take(f"{name}.weight", config["hidden_size"]) * scaled

    places = torch.arange(length, dtype=torch.float64)
    angles = places[:, None] / config["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotated(rows: torch.Tensor) -> torch.Tensor:
        """Pairs (i, i + width / 2) as complex numbers: Llama's `rotate_half`."""
        pairs = torch.complex(rows[..., : width // 2], rows[..., width // 2 :]) * turn[:, None]
        return torch.cat([pairs.real, pairs.imag], -1)

    size, hidden_size = config["hidden_size"], config["intermediate_size"]
    hidden = take("model.embed_tokens.weight", config["vocab_size"], size)[tokens]
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)
    for number in range(config["num_hidden_layers"]):
        block = f"model.layers.{number}"
        rows = norm(hidden, f"{block}.input_layernorm")
        queries, keys, values = (
            (rows @ take(f"{block}.self_attn.{part}_proj.weight", count * width, size).T).unflatten(-1, (count, width))
            for part, count in (("q", heads), ("k", heads // shared), ("v", heads // shared))
        )
        keys, values = (each.repeat_interleave(shared, 1) for each in (rotated(keys), values))
        scores = torch.einsum("qhw,khw->hqk", rotated(queries), keys) / width**0.5 + mask
        mixed = torch.einsum("hqk,khw->qhw", scores.softmax(-1), values).flatten(1)
        hidden = hidden + mixed @ take(f"{block}.self_attn.o_proj.weight", size, heads * width).T
        rows = norm(hidden, f"{block}.post_attention_layernorm")
        gate, up = (rows @ take(f"{block}.mlp.{part}_proj.weight", hidden_size, size).T for part in ("gate", "up"))
        activated = torch.nn.functional.silu(gate) * up
        hidden = hidden + activated @ take(f"{block}.mlp.down_proj.weight", size, hidden_size).T
    logits = norm(hidden, "model.norm") @ take("lm_head.weight", config["vocab_size"], size).T
    assert not left, "a weight that Llama does not have"
    return logits


@pytest.mark.parametrize("options", [OPTIONS, {"size": "1M", "depth": 2}])
def test_llama_gives_the_same_logits(options: dict[str, Any], tmp_path: Path) -> None:
    pipeline = load_pipeline("byte_lm", PIPELINES)
    torch.manual_seed(2)
    module = pipeline.build_model(INPUTS, options)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, mean=0.1, std=0.2)
    write(pipeline.exported(INPUTS, options, module.state_dict()), tmp_path)
    tokens = torch.randint(0, 256, (32,))
    with torch.inference_mode():
        own = module(tokens[None])[0].double()
        assert torch.allclose(llama(tmp_path, tokens), own, rtol=1e-3, atol=1e-3 * float(own.abs().max()))
