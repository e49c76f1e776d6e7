"""Bytes that run code, or fill memory, in whoever is careless enough to open them.

Each payload that runs would make the file `marker`; `benchmarks.reliability.hostile.live` proves that they do.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_GIB = 2**30


class Touch:
    """Unpickled, it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def pickles(marker: Path) -> dict[str, bytes]:
    """A pickle that makes `marker`, in every wrapping that a model comes in."""
    import cloudpickle
    import joblib
    import torch

    bare, touch = pickle.dumps(Touch(marker)), Touch(marker)
    return {
        "pickle protocol 0": pickle.dumps(touch, protocol=0),
        "pickle protocol 2": pickle.dumps(touch, protocol=2),
        "pickle protocol 5": pickle.dumps(touch, protocol=5),
        "cloudpickle": cloudpickle.dumps(touch),
        "torch.save, zip": _written(lambda file: torch.save({"w": touch}, file)),
        "torch.save, legacy": _written(lambda file: torch.save(touch, file, _use_new_zipfile_serialization=False)),
        "joblib": _written(lambda file: joblib.dump(touch, file)),
        "joblib, compressed": _written(lambda file: joblib.dump(touch, file, compress=("gzip", 3))),
        "numpy object array": _written(lambda file: np.save(file, np.array([touch], object), allow_pickle=True)),
        "numpy archive": _written(lambda file: np.savez(file, w=np.array([touch], object))),
        "gzip": gzip.compress(bare),
        "bzip2": bz2.compress(bare),
        "xz": lzma.compress(bare),
        "zip with data.pkl": zipped({"archive/data.pkl": bare, "archive/version": b"3"}),
        "exported program, .pt2": zipped({"model/archive_format": b"pt2", "model/data/weights/weights.pkl": bare}),
        "TorchScript": zipped({"m/constants.pkl": bare, "m/code/__torch__.py": b"import os"}),
        "Keras, .keras": zipped({"config.json": b'{"class_name": "Lambda"}', "model.weights.pkl": bare}),
        "tar with ..": tarred({"../../data.pkl": bare}),
        "base64 in JSON": json.dumps({"__reduce__": base64.b64encode(bare).decode()}).encode(),
        "Python source": f"open({str(marker)!r}, 'w').close()".encode(),
    }


def openers() -> dict[str, Callable[[bytes], object]]:
    """How a careless loader opens some of them."""
    import joblib
    import torch

    return {
        "pickle protocol 0": pickle.loads,
        "pickle protocol 2": pickle.loads,
        "pickle protocol 5": pickle.loads,
        "cloudpickle": pickle.loads,
        "torch.save, zip": lambda raw: torch.load(io.BytesIO(raw), weights_only=False),
        "torch.save, legacy": lambda raw: torch.load(io.BytesIO(raw), weights_only=False),
        "joblib": lambda raw: joblib.load(io.BytesIO(raw)),
        "joblib, compressed": lambda raw: joblib.load(io.BytesIO(raw)),
        "numpy object array": lambda raw: np.load(io.BytesIO(raw), allow_pickle=True),
        "numpy archive": lambda raw: np.load(io.BytesIO(raw), allow_pickle=True)["w"],
        "gzip": lambda raw: pickle.loads(gzip.decompress(raw)),
        "zip with data.pkl": lambda raw: pickle.loads(zipfile.ZipFile(io.BytesIO(raw)).read("archive/data.pkl")),
        "Python source": exec,
    }


def bombs() -> dict[str, bytes]:
    """Small files that unpack to gigabytes."""
    zeros = bytes(64 * 2**20)
    once = gzip.compress(zeros)
    return {
        "gzip bomb": once * 40,
        "zip bomb": zipped({"weights": zeros, "more": zeros}),
        "zip in zip": zipped({f"{number}.zip": zipped({"w": zeros}) for number in range(4)}),
    }


def safetensors(
    tensors: Mapping[str, Any] | bytes, body: bytes = b"", *, length: int | None = None, tail: bytes = b""
) -> bytes:
    """A safetensors file with any header, true or not, and any length before it."""
    header = tensors if isinstance(tensors, bytes) else json.dumps(tensors).encode()
    return (len(header) if length is None else length).to_bytes(8, "little") + header + body + tail


def tensor(start: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    """One tensor of a safetensors header."""
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def headers(marker: Path) -> dict[str, bytes]:
    """Safetensors files that are not what they say."""
    one = json.dumps(tensor(0, 8))
    many = {f"t{number}": tensor(0, 0) for number in range(30_000)}
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return {
        "empty file": b"",
        "too short for a length": b"\x08\x00",
        "header beyond the file": safetensors({"a": tensor(0, 8)}, bytes(8), length=2**20),
        "header of 2^63 bytes": safetensors({"a": tensor(0, 8)}, bytes(8), length=2**63),
        "header of 9 MiB": safetensors({"a": tensor(0, 8)} | {"b" * 9 * 2**20: tensor(8, 8)}, bytes(8)),
        "header of no bytes": safetensors(b""),
        "header that is a list": safetensors(b"[]"),
        "header that is a pickle": safetensors(pickle.dumps(Touch(marker))),
        "header that is no UTF-8": safetensors(b'{"\xff": 1}'),
        "header that is deep": safetensors(deep),
        "overlapping offsets": safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
        "a hole between tensors": safetensors({"a": tensor(0, 8), "b": tensor(12, 20)}, bytes(20)),
        "offsets out of the file": safetensors({"a": tensor(0, 2**40)}, bytes(8)),
        "negative offsets": safetensors({"a": tensor(-8, 0, [2])}, bytes(8)),
        "offsets the wrong way": safetensors({"a": tensor(8, 0, [2])}, bytes(8)),
        "offsets that are no integers": safetensors({"a": tensor(0, 8) | {"data_offsets": [0.0, 8.0]}}, bytes(8)),
        "a size that is not its shape's": safetensors({"a": tensor(0, 8, [3])}, bytes(8)),
        "a shape that overflows": safetensors({"a": tensor(0, 0, [2**62, 4])}),
        "a shape below zero": safetensors({"a": tensor(0, 8, [-2])}, bytes(8)),
        "100,000 dimensions": safetensors({"a": tensor(0, 4, [1] * 100_000)}, bytes(4)),
        "30,000 tensors": safetensors(many),
        "a type that is none": safetensors({"a": tensor(0, 8, [8], "PICKLE")}, bytes(8)),
        "a type that torch lacks": safetensors({"a": tensor(0, 8, [16], "F4")}, bytes(8)),
        "complex numbers": safetensors({"a": tensor(0, 8, [1], "C64")}, bytes(8)),
        "a name twice": safetensors(f'{{"a": {one}, "a": {one}}}'.encode(), bytes(8)),
        "a field twice": safetensors(b'{"a": {"dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}',
                                     bytes(8)),
        "a field too many": safetensors({"a": tensor(0, 8) | {"loader": "os.system"}}, bytes(8)),
        "a pickle in the metadata": safetensors(
            {"__metadata__": {"code": base64.b64encode(pickle.dumps(Touch(marker))).decode()}, "a": tensor(0, 8)},
            bytes(8),
        ),
        "a pickle after the tensors": safetensors({"a": tensor(0, 8)}, bytes(8), tail=pickle.dumps(Touch(marker))),
        "no tensors": safetensors({}),
    }  # fmt: skip


def tables(marker: Path) -> dict[str, bytes]:
    """Parquet files that run code in other readers, or unpack to gigabytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def written(table: pa.Table, **options: Any) -> bytes:
        return _written(lambda file: pq.write_table(table, file, **options))

    bare = pickle.dumps(Touch(marker))
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bare}
    long_text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2_000_000, np.int32)), pa.array(["x" * 500_000]))
    zeros = pa.array(np.zeros(40_000_000, np.int8))
    plain = pa.table({"at": [1]})
    return {
        "a pickle for a table": bare,
        "a pickled extension type": written(
            pa.table({"at": pa.array([1])}).cast(pa.schema([pa.field("at", pa.int64(), metadata=extension)]))
        ),
        "a pickle in the metadata": written(plain.replace_schema_metadata({"pandas": bare})),
        "attributes for pandas": written(
            plain.replace_schema_metadata({"PANDAS_ATTRS": json.dumps({"x": base64.b64encode(bare).decode()})})
        ),
        "pickles in a column": written(pa.table({"at": [bare]})),
        "nested columns": written(pa.table({"at": [[[[1]]]]})),
        "a struct": written(pa.table({"at": [{"x": 1}]})),
        "a map": written(pa.table({"at": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))})),
        "a long text in millions of rows": written(pa.table({"at": long_text}), store_schema=False),
        "zeros without end": written(pa.table({f"c{number}": zeros for number in range(4)}), use_dictionary=True),
        "packed with Zstandard": written(pa.table({"at": np.zeros(10_000_000)}), compression="zstd"),
        "packed with gzip": written(pa.table({"at": np.zeros(1_000_000)}), compression="gzip"),
        "packed with Brotli": written(plain, compression="brotli"),
        "5,000 columns": written(pa.table({f"c{number}": [1] for number in range(5000)})),
        "cut off": written(pa.table({"at": np.arange(10_000)}))[:-100],
        "a footer that lies": b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1",
        "an empty table file": b"",
        "CSV": b"at,answer\n1,2\n",
        "no such columns": written(plain),
    }


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A ZIP archive of `files`."""

    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)

    return _written(write)


def tarred(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of `files`, whatever their names."""

    def write(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in files.items():
                found = tarfile.TarInfo(name)
                found.size = len(content)
                archive.addfile(found, io.BytesIO(content))

    return _written(write)


def state(module_state: Mapping[str, Any], **change: Any) -> bytes:
    """Weights of a module, some of them changed; None takes one away."""
    from safetensors.torch import save

    merged = OrderedDict(module_state) | change
    return bytes(save({name: value.contiguous() for name, value in merged.items() if value is not None}))


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()
