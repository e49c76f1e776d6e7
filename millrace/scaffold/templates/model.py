"""A model for tables: embeddings for categories, normalised numbers, residual blocks. Change what you like.

Only `build` is called. Its module takes a batch and gives logits [rows, outputs]: one for a binary label, one per
class, or one number (the trainer has put the label on mean 0 and spread 1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from millrace.encoding import TableInputs

CLIP = 8.0  # standard deviations; beyond them a number says "extreme" and nothing more
BLANKED = 0.01  # share of categories hidden in training, so that the model has met the unknown before it is served
MAX_DIM = 48


def build(inputs: TableInputs, options: Mapping[str, object]) -> nn.Module:
    """The module for these inputs; `options` is `model.options` of pipeline.yaml."""
    hidden, blocks, dropout = options.get("hidden", 128), options.get("blocks", 2), options.get("dropout", 0.1)
    return TableModel(inputs, int(str(hidden)), int(str(blocks)), float(str(dropout)))


class Numbers(nn.Module):
    """Raw numbers [rows, n] to [rows, 2n]: normalised ones, 0 where missing, beside marks of what is missing."""

    means: Tensor
    stds: Tensor

    def __init__(self, inputs: TableInputs) -> None:
        super().__init__()
        # Buffers travel with the weights, so serving normalises exactly as training did.
        self.register_buffer("means", torch.tensor(inputs.means, dtype=torch.float32))
        self.register_buffer("stds", torch.tensor(inputs.stds, dtype=torch.float32))

    def forward(self, raw: Tensor) -> Tensor:
        missing = torch.isnan(raw)
        normal = ((raw - self.means) / self.stds).clamp(-CLIP, CLIP)
        return torch.cat([normal.masked_fill(missing, 0.0), missing.to(normal.dtype)], dim=1)


class Categories(nn.Module):
    """Indices [rows, m] to the concatenated embeddings; index 0 is missing or unknown."""

    def __init__(self, cardinalities: tuple[int, ...]) -> None:
        super().__init__()
        dims = [min(MAX_DIM, 1 + round(1.6 * cardinality**0.56)) for cardinality in cardinalities]
        self.tables = nn.ModuleList(
            nn.Embedding(cardinality + 1, dim) for cardinality, dim in zip(cardinalities, dims, strict=True)
        )
        self.width = sum(dims)

    def forward(self, indices: Tensor) -> Tensor:
        if self.training:
            indices = indices.masked_fill(torch.rand(indices.shape, device=indices.device) < BLANKED, 0)
        columns = [table(indices[:, position]) for position, table in enumerate(self.tables)]
        return torch.cat(columns, dim=1) if columns else torch.zeros(len(indices), 0, device=indices.device)


class Block(nn.Module):
    """A residual step: what goes in comes out, plus what two layers add."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, values: Tensor) -> Tensor:
        added: Tensor = self.layers(values)
        return values + added


class TableModel(nn.Module):
    """Batch of `numeric` float32 [rows, n] and `categorical` int64 [rows, m] to logits [rows, outputs]."""

    def __init__(self, inputs: TableInputs, hidden: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.numbers = Numbers(inputs)
        self.categories = Categories(inputs.cardinalities)
        width = 2 * len(inputs.numeric) + self.categories.width
        self.body = nn.Sequential(nn.Linear(width, hidden), *(Block(hidden, dropout) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, inputs.outputs))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        numbers, categories = self.numbers(batch["numeric"]), self.categories(batch["categorical"])
        logits: Tensor = self.head(self.body(torch.cat([numbers, categories], dim=1)))
        return logits
