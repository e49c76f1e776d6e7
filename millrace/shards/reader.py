"""Reads a shard by mapping it into memory: a column is an array, and a batch is one gather from it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.errors import ArtifactError
from millrace.shards.columns import offsets, parse_header


class MappedShard:
    """A shard's columns, [num_samples, *shape] each, on the pages of its file; nothing is read before it is used.

    The map lives until the last array on it is gone, also when the file is deleted before.

    Raises:
        ArtifactError: the file is not a whole shard.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            described, self.num_samples, start = parse_header(mapped)
            begins, end = offsets(described, self.num_samples, start)
            if end != len(mapped):
                raise ValueError(f"it has {len(mapped)} bytes instead of {end}")
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"{path} is not a shard",
                got=str(error),
                next="delete it when it lies in a cache, else write the data set again",
            ) from error
        self.described = described
        self.columns: dict[str, npt.NDArray[Any]] = {
            column.name: np.frombuffer(
                mapped, column.dtype, self.num_samples * (column.num_bytes // np.dtype(column.dtype).itemsize), begin
            ).reshape(self.num_samples, *column.shape)
            for column, begin in zip(described, begins, strict=True)
        }

    def __len__(self) -> int:
        return self.num_samples
