"""Requests and responses on the wire, as the protocol's documents say: written apart from the code under test."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

CODES = {
    "BOOL": "?",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}


def pack(datatype: str, cells: Sequence[Any]) -> bytes:
    """Binary data: little-endian, a text as its length and its bytes."""
    if datatype == "BYTES":
        texts = [cell.encode() if isinstance(cell, str) else cell for cell in cells]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(cells)}{CODES[datatype]}", *cells)


def unpack(datatype: str, data: bytes) -> list[Any]:
    """The elements of binary data."""
    if datatype != "BYTES":
        return list(struct.unpack(f"<{len(data) // struct.calcsize('<' + CODES[datatype])}{CODES[datatype]}", data))
    found = []
    while data:
        size = struct.unpack("<I", data[:4])[0]
        assert len(data) >= 4 + size
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return found


def json_input(name: str, datatype: str, cells: Sequence[Any], *, shape: list[int] | None = None) -> dict[str, Any]:
    """An input whose data is in the JSON."""
    return {"name": name, "shape": shape or [len(cells)], "datatype": datatype, "data": list(cells)}


def binary_input(
    name: str, datatype: str, cells: Sequence[Any], *, shape: list[int] | None = None
) -> tuple[dict[str, Any], bytes]:
    """An input and its binary data."""
    data = pack(datatype, cells)
    tensor = {"name": name, "shape": shape or [len(cells)], "datatype": datatype}
    return {**tensor, "parameters": {"binary_data_size": len(data)}}, data


def request(
    inputs: Sequence[dict[str, Any] | tuple[dict[str, Any], bytes]], **members: Any
) -> tuple[bytes, bytes | None]:
    """The body, and the header's value where binary data follows the JSON."""
    tensors = [tensor[0] if isinstance(tensor, tuple) else tensor for tensor in inputs]
    parts = [tensor[1] for tensor in inputs if isinstance(tensor, tuple)]
    head = json.dumps({**members, "inputs": tensors}).encode()
    return head + b"".join(parts), str(len(head)).encode() if parts else None


def response(body: bytes, headers: Mapping[bytes, bytes]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The document and the elements of each output, read as a client reads them."""
    length = headers.get(b"inference-header-content-length")
    document = json.loads(body if length is None else body[: int(length)])
    position = len(body) if length is None else int(length)
    found: dict[str, list[Any]] = {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = output["data"]
        else:
            found[output["name"]] = unpack(output["datatype"], body[position : position + size])
            position += size
    assert position == len(body)
    return document, found
