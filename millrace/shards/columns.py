"""What a sample consists of, and where each column of a shard lies."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np

from millrace.errors import DataError

MAGIC = b"MILLSHD1"
#: A column begins at a multiple of this many bytes: a page, so that pages read ahead are of one column.
ALIGNMENT = 4096
#: More than this is no header of ours; it is checked before a byte of it is parsed.
MAX_HEADER_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")
_KINDS = "biuf"


@dataclass(frozen=True, slots=True)
class Column:
    """One value of a sample: its name, its little-endian numpy dtype and its shape (without the sample's axis)."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind not in _KINDS or any(size < 1 for size in self.shape) or not self.name:
            raise DataError(
                f"no column of a shard can be like '{self.name}'",
                got=f"dtype {self.dtype}, shape {list(self.shape)}",
                allowed="a name, a boolean, integer or float dtype, and sizes of 1 or more",
                next="encode the column as numbers of a fixed shape",
            )
        object.__setattr__(self, "dtype", dtype.newbyteorder("<").str)

    @property
    def num_bytes(self) -> int:
        """Bytes of one sample's value."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def of(cls, document: dict[str, Any]) -> Column:
        return cls(str(document["name"]), str(document["dtype"]), tuple(int(size) for size in document["shape"]))


def header(columns: Sequence[Column], num_samples: int) -> bytes:
    """The first bytes of a shard: what it holds, padded to where its first column begins."""
    document = {"num_samples": num_samples, "columns": [column.document() for column in columns]}
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    raw = MAGIC + _LENGTH.pack(len(text)) + text
    return raw + bytes(padding(len(raw)))


def parse_header(raw: bytes | mmap) -> tuple[tuple[Column, ...], int, int]:
    """Columns, number of samples and length in bytes of the header that `raw` begins with.

    Raises:
        ValueError: it begins with none.
    """
    start = len(MAGIC) + _LENGTH.size
    if len(raw) < start or raw[: len(MAGIC)] != MAGIC:
        raise ValueError("it does not begin as a shard")
    (length,) = _LENGTH.unpack_from(raw, len(MAGIC))
    if length > min(MAX_HEADER_BYTES, len(raw) - start):
        raise ValueError(f"its header of {length} bytes is not whole")
    try:
        document = json.loads(raw[start : start + length])
        columns = tuple(Column.of(column) for column in document["columns"])
        num_samples = int(document["num_samples"])
    except (KeyError, TypeError, DataError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    if num_samples < 1 or not columns:
        raise ValueError("it holds nothing")
    return columns, num_samples, start + length + padding(start + length)


def offsets(columns: Sequence[Column], num_samples: int, start: int) -> tuple[list[int], int]:
    """Where each column begins when the first does at `start`, and the length of the file, in bytes."""
    found, end = [], start
    for column in columns:
        begin = end + padding(end)
        found.append(begin)
        end = begin + column.num_bytes * num_samples
    return found, end


def padding(length: int) -> int:
    """Bytes from `length` to the next multiple of ALIGNMENT."""
    return -length % ALIGNMENT
