"""A decoder-only transformer as Llama has it: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Names and shapes of its weights are those of Hugging Face's `LlamaForCausalLM`, less the prefix `model.`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from millrace.errors import ConfigError, nearest
from millrace.texts import TextInputs


@dataclass(frozen=True)
class Sizes:
    """Width of the residual stream, number of blocks, heads of queries and of keys and values, width within SwiGLU."""

    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    def parameters(self, vocabulary: int) -> int:
        """How many parameters the model has, embedding and head included."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        block = attention + 3 * self.width * self.hidden + 2 * self.width
        return self.depth * block + self.width + 2 * vocabulary * self.width


#: With 256 bytes as vocabulary: parameters of these sizes, within a tenth.
PRESETS = {
    "1M": Sizes(128, 5, 4, 2, 352),
    "5M": Sizes(256, 7, 8, 4, 704),
    "25M": Sizes(512, 9, 8, 4, 1408),
    "125M": Sizes(768, 19, 12, 4, 2048),
    "350M": Sizes(1024, 30, 16, 4, 2816),
    "1B": Sizes(2048, 20, 32, 8, 6144),
    "3B": Sizes(3072, 28, 24, 8, 8192),
    "8B": Sizes(4096, 37, 32, 8, 14336, rope_theta=500_000.0),
}


def sizes(options: Mapping[str, Any]) -> Sizes:
    """The sizes that `model.options` name: a preset under `size`, and any field of its own.

    Raises:
        ConfigError: a name that is not known, or sizes that do not fit together.
    """
    known = {field.name for field in fields(Sizes)}
    if strange := sorted(set(options) - known - {"size"}):
        raise ConfigError(f"model.options has no '{strange[0]}'", allowed=nearest(strange[0], [*known, "size"]))
    name = options.get("size", "1M")
    if name not in PRESETS:
        raise ConfigError("model.options.size is none", got=name, allowed=", ".join(PRESETS))
    found = replace(PRESETS[name], **{key: value for key, value in options.items() if key != "size"})
    counts = {key: getattr(found, key) for key in ("width", "depth", "heads", "kv_heads", "hidden")}
    if bad := {key: value for key, value in counts.items() if type(value) is not int or value < 1}:
        raise ConfigError("model.options: sizes are whole numbers from 1", got=bad)
    if found.width % found.heads or found.head_width % 2:
        raise ConfigError(
            "model.options: a head has no even width",
            got=f"width {found.width}, {found.heads} heads",
            allowed="a width that is an even multiple of heads",
        )
    if found.heads % found.kv_heads:
        raise ConfigError(
            "model.options: heads of queries share those of keys and values evenly",
            got=f"{found.heads} heads, {found.kv_heads} kv_heads",
            allowed="kv_heads that divide heads",
        )
    return found


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021), the halves of a head rotated against each other as Llama's are."""

    def __init__(self, head_width: int, theta: float) -> None:
        super().__init__()
        self.head_width, self.theta = head_width, theta

    def forward(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines, float32 [length, head_width]."""
        steps = torch.arange(0, self.head_width, 2, device=device, dtype=torch.float32) / self.head_width
        angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), self.theta**-steps)
        both = torch.cat([angles, angles], dim=-1)
        return both.cos(), both.sin()


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`heads` [rows, heads, length, head_width], turned by their positions."""
    left, right = heads.chunk(2, dim=-1)
    turned = torch.cat([-right, left], dim=-1)
    return (heads * cos + turned * sin).to(heads.dtype)


class Attention(nn.Module):
    """Causal attention in which several heads of queries share one of keys and values (Ainslie et al. 2023)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head_width = sizes.head_width
        self.rotary = Rotary(sizes.head_width, sizes.rope_theta)
        self.q_proj = nn.Linear(sizes.width, sizes.heads * sizes.head_width, bias=False)
        self.k_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width, bias=False)
        self.v_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width, bias=False)
        self.o_proj = nn.Linear(sizes.heads * sizes.head_width, sizes.width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] to the same."""
        # A worker of a tensor parallel group has some of the heads: how many, the projections say.
        queries, keys, values = (
            project(hidden).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = self.rotary(queries.shape[2], queries.device)
        attended = functional.scaled_dot_product_attention(
            rotate(queries, cos, sin), rotate(keys, cos, sin), values, is_causal=True, enable_gqa=True
        )
        mixed: torch.Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return mixed


class Mlp(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.hidden, bias=False)
        self.down_proj = nn.Linear(sizes.hidden, sizes.width, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] to the same."""
        out: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return out


class Block(nn.Module):
    """Attention and MLP, each on the normalised residual stream."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(sizes.width, sizes.norm_eps)
        self.self_attn = Attention(sizes)
        self.post_attention_layernorm = nn.RMSNorm(sizes.width, sizes.norm_eps)
        self.mlp = Mlp(sizes)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, length, width] to the same."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden))
        out: torch.Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class ByteLM(nn.Module):
    """The model, or a stage of it: one that lacks a part leaves it out."""

    def __init__(self, sizes: Sizes, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens: nn.Embedding | None = nn.Embedding(vocabulary, sizes.width)
        self.layers = nn.ModuleDict({str(number): Block(sizes) for number in range(sizes.depth)})
        self.norm: nn.RMSNorm | None = nn.RMSNorm(sizes.width, sizes.norm_eps)
        self.lm_head: nn.Linear | None = nn.Linear(sizes.width, vocabulary, bias=False)
        self._initialise(sizes)

    def _initialise(self, sizes: Sizes) -> None:
        """Normal weights, those that write to the residual stream smaller with depth (Radford et al. 2019)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (2 * sizes.depth) ** 0.5 if writes else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [rows, length, vocabulary] of tokens int64 [rows, length]."""
        hidden: torch.Tensor = tokens if self.embed_tokens is None else self.embed_tokens(tokens)
        for block in self.layers.values():
            hidden = block(hidden)
        if self.norm is not None:
            hidden = self.norm(hidden)
        return hidden if self.lm_head is None else self.lm_head(hidden)


def build(inputs: TextInputs, options: Mapping[str, Any]) -> ByteLM:
    """The model for `inputs`, of the sizes that `options` name."""
    return ByteLM(sizes(options), inputs.vocabulary)
