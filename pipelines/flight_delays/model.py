"""A small multilayer perceptron over normalised numbers and embedded categories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from millrace.encoding import TableInputs

LARGEST = 6.0  # standard deviations; a value further out says no more than this


class DelayModel(nn.Module):
    """Logits from raw feature values.

    Args:
        inputs: names, sizes and statistics of the features.
        width: units per hidden layer.
        depth: hidden layers.
        embedding: largest size of a category's vector.
        dropout: share of hidden units dropped in training.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, inputs: TableInputs, width: int, depth: int, embedding: int, dropout: float) -> None:
        super().__init__()
        # Buffers travel with the weights, so a served model normalises as it did in training.
        self.register_buffer("mean", torch.tensor(inputs.means, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(inputs.stds, dtype=torch.float32).clamp_min(1e-6))
        # Index 0 (missing or unknown) stays a vector of zeros: the model then goes by the other features.
        tables = [
            nn.Embedding(size + 1, min(embedding, (size + 3) // 2), padding_idx=0) for size in inputs.cardinalities
        ]
        for table in tables:
            # Small, so that a category never seen in training stays close to an unknown one.
            nn.init.normal_(table.weight[1:].detach(), std=0.05)
        self.embeddings = nn.ModuleList(tables)
        units = 2 * len(inputs.numeric) + sum(table.embedding_dim for table in tables)
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(units, width), nn.SiLU(), nn.Dropout(dropout)]
            units = width
        self.head = nn.Sequential(*layers, nn.Linear(units, inputs.outputs))

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits float32 [batch, outputs].

        Args:
            batch: ``numeric`` float32 [batch, n_numeric] with NaN where missing; ``categorical`` int64
                [batch, n_categorical], 0 where missing or unknown.
        """
        scaled = (batch["numeric"] - self.mean) / self.std
        missing = torch.isnan(scaled)
        parts = [torch.where(missing, 0.0, scaled.clamp(-LARGEST, LARGEST)), missing.to(scaled.dtype)]
        parts += [table(batch["categorical"][:, at]) for at, table in enumerate(self.embeddings)]
        logits: torch.Tensor = self.head(torch.cat(parts, dim=1))
        return logits


def build(inputs: TableInputs, options: Mapping[str, object]) -> nn.Module:
    """The model for these inputs; options: width, depth, embedding, dropout."""
    known = {"width": 64, "depth": 2, "embedding": 8, "dropout": 0.1}
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"unknown model options: {', '.join(unknown)}; allowed: {', '.join(known)}")
    chosen = {name: float(str(options.get(name, value))) for name, value in known.items()}
    return DelayModel(inputs, int(chosen["width"]), int(chosen["depth"]), int(chosen["embedding"]), chosen["dropout"])
