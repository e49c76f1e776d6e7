"""Rows as tensors, and the order in which the workers see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from millrace.dataset import StagedSet, labelled_rows
from millrace.encoding import encode, labels
from millrace.errors import DataError
from millrace.package import LabelScale
from millrace.spec import DataSpec
from millrace.storage import ObjectStore
from millrace.window import Window

_SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class Tensors:
    """Encoded rows on one device: inputs by name, [rows, ...], and float32 targets [rows]."""

    inputs: dict[str, torch.Tensor]
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: torch.Tensor) -> Tensors:
        return Tensors({name: tensor[index] for name, tensor in self.inputs.items()}, self.targets[index])

    def to(self, device: torch.device) -> Tensors:
        return Tensors({name: tensor.to(device) for name, tensor in self.inputs.items()}, self.targets.to(device))


def read_labelled(
    store: ObjectStore, staged: StagedSet, data: DataSpec, window: Window, features: Sequence[str] | None = None
) -> pd.DataFrame:
    """The rows of `window` whose outcome had arrived when the set was staged: label, and all or the given features.

    Raises:
        DataError: there is none.
    """
    label = [data.label.column, data.label.known_at or data.event_time]
    columns = [*(data.features if features is None else features), *label]
    rows = labelled_rows(staged.read(store, data, window, columns), data, staged.as_of)
    if rows.empty:
        raise DataError(
            f"no labelled rows in {window}",
            allowed="at least one",
            next="give a later as_of, or check data.label.known_at and data.label.delay_days",
        )
    return rows


def label_scale(rows: pd.DataFrame, data: DataSpec) -> LabelScale:
    """Mean and standard deviation of a regression target; the identity for the other kinds."""
    if data.label.kind != "regression":
        return LabelScale()
    values = labels(rows, data).astype(np.float64)
    std = float(values.std())
    return LabelScale(float(values.mean()), std if std > _SMALLEST_STD else 1.0)


def tensors(rows: pd.DataFrame, data: DataSpec, scale: LabelScale) -> Tensors:
    """Encoded rows and scaled targets, on the CPU."""
    inputs = {name: torch.from_numpy(array) for name, array in encode(rows, data).items()}
    targets = (labels(rows, data) - scale.mean) / scale.std
    return Tensors(inputs, torch.from_numpy(targets.astype(np.float32)))


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    return max(1, -(-num_rows // batch_size))


def batches(
    num_rows: int, batch_size: int, *, epoch: int, seed: int, rank: int, world_size: int
) -> Iterator[torch.Tensor]:
    """This rank's row indices, step by step. The global order depends on seed and epoch only.

    Every rank takes the same number of steps; a short last batch is filled from the start of the epoch's order, so
    that no rank has an empty share.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(num_rows, generator=generator)
    for step in range(steps_per_epoch(num_rows, batch_size)):
        batch = order[step * batch_size : (step + 1) * batch_size]
        if len(batch) < world_size:
            batch = torch.cat([batch, order[: world_size - len(batch)].repeat(world_size)[: world_size - len(batch)]])
        yield batch[rank::world_size]
