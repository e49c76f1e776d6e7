"""Where each chunk of each tensor lies: the checkpoint's index, JSON where torch's own writers leave a pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from millrace import strict_json
from millrace.errors import ArtifactError

INDEX = "index.json"
MAX_INDEX_BYTES = 512 * 2**20
_VERSION = 1
_FIELDS = {"version", "files", "tensors"}

#: The names that safetensors gives to types.
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Offsets = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor, and where its bytes lie: contiguous, row-major, from byte `start` of `file`."""

    offsets: Offsets
    sizes: Offsets
    file: str
    start: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor's type and full shape, and its chunks, which cover it once."""

    dtype: str
    shape: Offsets
    chunks: Mapping[Offsets, Chunk]


@dataclass(frozen=True, slots=True)
class Index:
    """All tensors of a checkpoint, by fully qualified name."""

    tensors: Mapping[str, StoredTensor]

    def encode(self) -> bytes:
        files = sorted({chunk.file for tensor in self.tensors.values() for chunk in tensor.chunks.values()})
        number = {file: index for index, file in enumerate(files)}
        tensors = {
            name: [
                tensor.dtype,
                tensor.shape,
                [[chunk.offsets, chunk.sizes, number[chunk.file], chunk.start] for chunk in tensor.chunks.values()],
            ]
            for name, tensor in self.tensors.items()
        }
        document = {"version": _VERSION, "files": files, "tensors": tensors}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, content: bytes, num_bytes: Mapping[str, int], where: str) -> Self:
        """The index in `content`; `num_bytes` has the sizes of the files that it may name.

        Raises:
            ArtifactError: it is none, or a chunk leaves its tensor or its file, or the chunks leave holes.
        """
        document = strict_json.parse(content, where, max_bytes=MAX_INDEX_BYTES)
        try:
            if not isinstance(document, dict) or set(document) != _FIELDS or document["version"] != _VERSION:
                raise ValueError(f"it has not the fields {', '.join(sorted(_FIELDS))}, or is not of version {_VERSION}")
            files = document["files"]
            if not isinstance(files, list) or not all(isinstance(file, str) and file in num_bytes for file in files):
                raise ValueError("it names a file that the checkpoint does not have")
            return cls({name: _tensor(name, row, files, num_bytes) for name, row in document["tensors"].items()})
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise ArtifactError(
                f"{where} is no index of a checkpoint",
                got=str(error),
                next="go on from an older checkpoint, or delete this one's prefix",
            ) from error

    @property
    def metadata(self) -> Metadata:
        """The same for torch's load planner."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(dtype=DTYPES[tensor.dtype]),
                    torch.Size(tensor.shape),
                    [
                        ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes))
                        for chunk in tensor.chunks.values()
                    ],
                )
                for name, tensor in self.tensors.items()
            }
        )


def num_bytes_of(dtype: str, sizes: Sequence[int]) -> int:
    return math.prod(sizes) * DTYPES[dtype].itemsize


def _tensor(name: str, row: Any, files: list[str], num_bytes: Mapping[str, int]) -> StoredTensor:
    dtype, shape, rows = row
    if dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has the type {dtype!r}, allowed are {', '.join(DTYPES)}")
    shape = _counts(name, shape)
    chunks = {}
    for offsets, sizes, file, start in rows:
        chunk = Chunk(_counts(name, offsets), _counts(name, sizes), files[_count(name, file)], _count(name, start))
        if len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape):
            raise ValueError(f"a chunk of tensor {name!r} has other dimensions than the tensor")
        if any(begin + size > full for begin, size, full in zip(chunk.offsets, chunk.sizes, shape, strict=True)):
            raise ValueError(f"a chunk of tensor {name!r} leaves the tensor")
        if chunk.start + num_bytes_of(dtype, chunk.sizes) > num_bytes[chunk.file]:
            raise ValueError(f"a chunk of tensor {name!r} leaves the file {chunk.file}")
        chunks[chunk.offsets] = chunk
    # torch's planner refuses to save overlaps; with these, as many numbers as the tensor has means no hole.
    if len(chunks) != len(rows) or sum(math.prod(chunk.sizes) for chunk in chunks.values()) != math.prod(shape):
        raise ValueError(f"the chunks of tensor {name!r} do not cover it once")
    return StoredTensor(dtype, shape, chunks)


def _counts(name: str, value: Any) -> Offsets:
    if not isinstance(value, list):
        raise ValueError(f"a place in tensor {name!r} is no list")
    return tuple(_count(name, number) for number in value)


def _count(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} in tensor {name!r} is no count")
    return value
