"""The transformer, beside the arithmetic of Llama written out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from millrace.errors import ConfigError
from millrace.pipeline import load_module
from millrace.texts import TextInputs

FOLDER = Path(__file__).parents[4] / "pipelines" / "byte_lm"
OPTIONS = {"size": "1M", "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 48}
INPUTS = TextInputs(256, 16)


@pytest.fixture
def code() -> Any:
    return load_module(FOLDER, "model", "model.build")


def by_hand(weights: dict[str, torch.Tensor], tokens: torch.Tensor, heads: int, kv_heads: int) -> torch.Tensor:
    """One sequence, a position and a head at a time, as the papers say it; float64."""
    weights = {name: tensor.double() for name, tensor in weights.items()}

    def norm(row: torch.Tensor, name: str) -> torch.Tensor:
        return row / torch.sqrt((row**2).mean(-1, keepdim=True) + 1e-5) * weights[f"{name}.weight"]

    def turned(head: torch.Tensor, position: int) -> torch.Tensor:
        half = len(head) // 2
        out = head.clone()
        for pair in range(half):
            angle = position * 10_000.0 ** (-2 * pair / len(head))
            left, right = head[pair], head[pair + half]
            out[pair] = left * math.cos(angle) - right * math.sin(angle)
            out[pair + half] = right * math.cos(angle) + left * math.sin(angle)
        return out

    hidden = weights["embed_tokens.weight"][tokens]
    for layer in ("layers.0", "layers.1"):
        rows = norm(hidden, f"{layer}.input_layernorm")
        queries, keys, values = (rows @ weights[f"{layer}.self_attn.{name}_proj.weight"].T for name in "qkv")
        width = queries.shape[1] // heads
        mixed = torch.zeros_like(queries)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            query, key, value = (
                each[:, place * width : (place + 1) * width]
                for each, place in ((queries, head), (keys, shared), (values, shared))
            )
            query, key = (torch.stack([turned(row, at) for at, row in enumerate(each)]) for each in (query, key))
            for at in range(len(tokens)):
                scores = (key[: at + 1] @ query[at]) / math.sqrt(width)
                mixed[at, head * width : (head + 1) * width] = torch.softmax(scores, 0) @ value[: at + 1]
        hidden = hidden + mixed @ weights[f"{layer}.self_attn.o_proj.weight"].T
        rows = norm(hidden, f"{layer}.post_attention_layernorm")
        gate, up = (rows @ weights[f"{layer}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        hidden = hidden + (gate * torch.sigmoid(gate) * up) @ weights[f"{layer}.mlp.down_proj.weight"].T
    return norm(hidden, "norm") @ weights["lm_head.weight"].T


def test_its_logits_are_llamas(code: Any) -> None:
    torch.manual_seed(1)
    model = code.build(INPUTS, OPTIONS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(0, 256, (16,))
    expected = by_hand(model.state_dict(), tokens, 4, 2)
    assert torch.allclose(model(tokens[None])[0].double(), expected, atol=1e-4, rtol=1e-4)


def test_what_comes_later_changes_nothing_before(code: Any) -> None:
    model = code.build(INPUTS, OPTIONS)
    tokens = torch.randint(0, 256, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 256
    assert torch.allclose(model(tokens)[:, :9], model(changed)[:, :9], atol=1e-6)
    assert not torch.allclose(model(tokens)[:, 9:], model(changed)[:, 9:])


def test_presets_are_of_the_size_that_they_are_called(code: Any) -> None:
    for name, sizes in code.PRESETS.items():
        called = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
        assert sizes.parameters(256) == pytest.approx(called, rel=0.1), name
        assert code.sizes({"size": name}) == sizes


def test_parameters_are_counted_as_they_are(code: Any) -> None:
    model = code.build(INPUTS, OPTIONS)
    assert sum(each.numel() for each in model.parameters()) == code.sizes(OPTIONS).parameters(256)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": "2M"}, "1M, 5M"),
        ({"widht": 3}, "width"),
        ({"heads": 3}, "even multiple of heads"),
        ({"heads": 4, "kv_heads": 3}, "kv_heads that divide heads"),
        ({"depth": 0}, "whole numbers"),
        ({"depth": 2.0}, "whole numbers"),
        ({"heads": 128}, "even"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(code: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        code.sizes(options)


def test_the_plan_counts_operations_as_they_are_published(code: Any) -> None:
    """PaLM's formula (Chowdhery et al. 2022, appendix B): 6 N + 12 L H Q T a token."""
    plan = load_module(FOLDER, "plan", "model.plan").plan(INPUTS, OPTIONS)
    parameters = code.sizes(OPTIONS).parameters(256) - 256 * 32
    assert plan.flops_per_row == 16 * (6 * parameters + 12 * 2 * 4 * 8 * 16)
    assert plan.tokens_per_row == 16
