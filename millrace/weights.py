"""Tensors from a safetensors file.

The library's own parser refuses offsets that overlap, leave holes or leave the file, sizes that do not fit their shape
and type, and headers above 100 MB. It lets pass what is refused here: a name or field that appears twice (the last one
counts), hundreds of thousands of tensors, types that torch lacks (a bare KeyError), and NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from millrace import strict_json
from millrace.errors import ArtifactError

if TYPE_CHECKING:
    import torch

_MAX_HEADER_BYTES = 8 * 2**20
_MAX_TENSORS = 20_000
_MAX_DIMENSIONS = 16
_LENGTH_BYTES = 8
_DTYPES = ("BOOL", "U8", "I8", "I16", "I32", "I64", "F16", "BF16", "F32", "F64")
_FIELDS = {"dtype", "shape", "data_offsets"}


def load(content: bytes, where: str) -> dict[str, torch.Tensor]:
    """The tensors in `content`, by name.

    Raises:
        ArtifactError: it is no safetensors file as our writers make them, or a tensor holds NaN.
    """
    import safetensors
    import safetensors.torch

    try:
        _check_header(content, where)
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(content)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.isnan().any():
                raise ValueError(f"tensor {name!r} holds NaN")
    except (safetensors.SafetensorError, ValueError, RuntimeError, OverflowError) as error:
        raise ArtifactError(
            f"{where} holds no weights that can be used",
            got=f"{type(error).__name__}: {error}",
            allowed="a safetensors file",
            next="delete the prefix and run the step again",
        ) from error
    return tensors


def _check_header(content: bytes, where: str) -> None:
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, len(content) - _LENGTH_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
    header = strict_json.parse(content[_LENGTH_BYTES : _LENGTH_BYTES + length], f"{where}'s header")
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise ValueError(f"a header that does not name up to {_MAX_TENSORS} tensors")
    for name, tensor in header.items():
        if name == "__metadata__":
            raise ValueError("metadata, which our writers do not write")
        if not isinstance(tensor, dict) or set(tensor) != _FIELDS:
            raise ValueError(f"tensor {name!r} is not described by {', '.join(sorted(_FIELDS))}")
        if tensor["dtype"] not in _DTYPES:
            raise ValueError(f"tensor {name!r} has the type {tensor['dtype']!r}, allowed are {', '.join(_DTYPES)}")
        if not isinstance(tensor["shape"], list) or len(tensor["shape"]) > _MAX_DIMENSIONS:
            raise ValueError(f"tensor {name!r} has more than {_MAX_DIMENSIONS} dimensions")
