"""How a request looks to each kind of server, and where its answer stands. The same rows in each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

#: The number that tells one request from the next stands here, always eight characters wide.
VARIED = "distance"
_MARK = 1234.567
_FIRST, _COUNT = 1000, 5_000_000


@dataclass(frozen=True)
class Dialect:
    """`encode` writes a request for rows of a shape; `decode` reads one probability a row from the answer."""

    encode: Callable[[Mapping[str, Any], Sequence[Row]], Any]
    decode: Callable[[Any], list[float]]

    def body(self, shape: Mapping[str, Any], rows: Sequence[Row]) -> bytes:
        return json.dumps(self.encode(shape, rows), separators=(",", ":")).encode()

    def template(self, shape: Mapping[str, Any], row: Row, *others: Row) -> Template:
        """The body for a row, and others behind it, with a place for the number that differs in the first."""
        head, tail = self.body(shape, [{**row, VARIED: _MARK}, *others]).split(str(_MARK).encode())
        return Template(head, tail)


@dataclass(frozen=True)
class Template:
    """A request body of which no two are alike, so that a cache anywhere cannot answer instead of the model."""

    head: bytes
    tail: bytes

    def body(self, number: int) -> bytes:
        return self.head + f"{_FIRST + number % _COUNT / 1000:.3f}".encode() + self.tail

    @property
    def size(self) -> int:
        """Bytes, the same for each number."""
        return len(self.body(0))


def _rows(shape: Mapping[str, Any], rows: Sequence[Row]) -> Any:
    return {"rows": [dict(row) for row in rows]}


def _records(shape: Mapping[str, Any], rows: Sequence[Row]) -> Any:
    return {"dataframe_records": [dict(row) for row in rows]}


def _tensors(shape: Mapping[str, Any], rows: Sequence[Row]) -> Any:
    def tensor(kind: str, datatype: str) -> dict[str, Any]:
        names = [feature["name"] for feature in shape[kind]]
        data = [row[name] for row in rows for name in names]
        return {"name": kind, "shape": [len(rows), len(names)], "datatype": datatype, "data": data}

    return {"inputs": [tensor("numeric", "FP32"), tensor("categorical", "BYTES")]}


def _columns(shape: Mapping[str, Any], rows: Sequence[Row]) -> Any:
    return {"inputs": columns(shape, rows)}


def columns(shape: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """An input tensor a feature, [rows, 1], of the datatype that each server's metadata tells."""
    return [
        {"name": feature["name"], "shape": [len(rows), 1], "datatype": datatype, "data": _column(rows, feature["name"])}
        for kind, datatype in (("numeric", "FP64"), ("categorical", "BYTES"))
        for feature in shape[kind]
    ]


def _column(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows]


def _predictions(answer: Any) -> list[float]:
    return [float(found["probability"] if isinstance(found, dict) else found) for found in answer["predictions"]]


def _first_output(answer: Any) -> list[float]:
    return [float(value) for value in answer["outputs"][0]["data"]]


#: A list of named cells: Millrace, and whoever writes its own contract with pydantic.
ROWS = Dialect(_rows, _predictions)
#: The Open Inference Protocol V2 in JSON: MLServer, Triton.
TENSORS = Dialect(_tensors, _first_output)
#: The same with a tensor a feature, which is Millrace's signature.
COLUMNS = Dialect(_columns, _first_output)
#: MLflow's scoring protocol.
RECORDS = Dialect(_records, _predictions)
