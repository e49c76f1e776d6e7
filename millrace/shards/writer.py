"""Writes rows as shards: whole blocks at a time, never a sample at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from millrace.errors import DataError
from millrace.faults import fault_point
from millrace.shards.columns import Column, header, padding

#: A block of columns, [rows, ...] each.
Block = Mapping[str, npt.NDArray[Any]]


class ShardWriter:
    """Rows of a table, in order, as files of `samples_per_shard` rows in `folder`; the last one is shorter.

    `files` are the shards written, by name, in order; they are whole once `close` (or the `with`) has ended.
    """

    kind = "table"

    def __init__(self, folder: Path, columns: Sequence[Column], *, samples_per_shard: int) -> None:
        if samples_per_shard < 1 or not columns or len({column.name for column in columns}) != len(columns):
            raise DataError(
                "shards cannot be written so",
                got=f"{samples_per_shard} samples a shard, columns {[column.name for column in columns]}",
                allowed="at least one sample and one column, each name once",
                next="correct the call",
            )
        self.folder, self.columns, self.samples_per_shard = folder, tuple(columns), samples_per_shard
        self.files: dict[str, Path] = {}
        self._pending: list[Block] = []
        self._num_pending = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()

    def write(self, block: Block) -> None:
        """Append `block`, [rows, *shape] for each column.

        Raises:
            DataError: a column is missing, or its values would not be the same in the column's dtype and shape.
        """
        rows = self._checked(block)
        num_rows, start = len(next(iter(rows.values()))), 0
        while start < num_rows:
            stop = min(num_rows, start + self.samples_per_shard - self._num_pending)
            part = {name: values[start:stop] for name, values in rows.items()}
            whole = self._num_pending + stop - start == self.samples_per_shard
            # What is kept for later is copied: the caller may fill its arrays anew.
            self._pending.append(part if whole else {name: values.copy() for name, values in part.items()})
            self._num_pending += stop - start
            if whole:
                self._flush()
            start = stop

    def close(self) -> None:
        """Write what is left."""
        if self._num_pending:
            self._flush()

    def _checked(self, block: Block) -> dict[str, npt.NDArray[Any]]:
        names = [column.name for column in self.columns]
        if sorted(block) != sorted(names) or len({len(values) for values in block.values()}) != 1:
            raise DataError(
                "a block of rows is not what the shard holds",
                got={name: list(values.shape) for name, values in block.items()},
                allowed=f"the columns {', '.join(names)}, with as many rows each",
                next="give every column",
            )
        return {column.name: _cast(column, block[column.name]) for column in self.columns}

    def _flush(self) -> None:
        name = f"shard-{len(self.files):06d}"
        path = self.folder / name
        with fault_point("shards.write"), path.open("wb", buffering=0) as file:
            # One write call for each block of a column: the rows go from the caller's array to the disk as they are.
            _write(file, header(self.columns, self._num_pending))
            end = 0
            for column in self.columns:
                _write(file, bytes(padding(end)))
                for block in self._pending:
                    _write(file, np.ascontiguousarray(block[column.name]).reshape(-1).view(np.uint8).data)
                end = column.num_bytes * self._num_pending
        self.files[name] = path
        self._pending, self._num_pending = [], 0


def _cast(column: Column, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if values.shape[1:] == column.shape:
        if values.dtype == np.dtype(column.dtype):
            return values
        if np.can_cast(values.dtype, column.dtype, "safe"):
            return values.astype(column.dtype)
    raise DataError(
        f"column '{column.name}' is not what the shard holds",
        got=f"{values.dtype}{list(values.shape[1:])}",
        allowed=f"{column.dtype}{list(column.shape)}, or what can be one without loss",
        next="convert the column first",
    )


def _write(file: Any, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
