"""Requests of the Open Inference Protocol, good and bad, that any server of it should answer alike.

`millrace.open_inference` names the two documents that say how: KServe's, and Triton's of the extension for binary data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.dialects import Row, columns

JSON_LENGTH = "inference-header-content-length"
Tensor = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One request; `is_good` where it is to be answered, `is_binary` where that takes the extension for binary data."""

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_good: bool = False
    is_binary: bool = False


def cases(model: str, version: str, shape: Mapping[str, Any], rows: Sequence[Row]) -> list[Case]:
    """All of them, for a `model` whose features `shape` tells, in the `version` that answers; `rows` are right."""
    at = f"/v2/models/{model}"
    return [
        *_about(at, version),
        *_answered(at, version, shape, rows),
        *_refused(at, shape, rows),
        *_refused_bodies(at),
        *_binary(at, shape, rows),
    ]


def _about(at: str, version: str) -> Iterator[Case]:
    known = {
        "live": "/v2/health/live",
        "ready": "/v2/health/ready",
        "server metadata": "/v2",
        "model metadata": at,
        "version metadata": f"{at}/versions/{version}",
        "model ready": f"{at}/ready",
        "version ready": f"{at}/versions/{version}/ready",
    }
    unknown = {
        "metadata of no model": "/v2/models/nobody",
        "metadata of no version": f"{at}/versions/77",
        "ready of no model": "/v2/models/nobody/ready",
        "ready of no version": f"{at}/versions/77/ready",
        "no such path": "/v2/nothing",
        "infer by GET": f"{at}/infer",
    }
    for name, path in (known | unknown).items():
        yield Case(name, "GET", path, is_good=name in known)


def _answered(at: str, version: str, shape: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[Case]:
    some, one = columns(shape, rows), columns(shape, rows[:1])
    for name, document in {
        "one row": {"inputs": one},
        "many rows": {"inputs": some},
        "an id": {"id": "mine/42", "inputs": some},
        "an output by its name": {"inputs": some, "outputs": [{"name": "probability"}]},
        "no outputs named": {"inputs": some, "outputs": []},
        "parameters": {"parameters": {"tenant": "a", "tries": 2, "dry": False}, "inputs": some},
        "parameters of a tensor": {"inputs": [{**some[0], "parameters": {"unit": "h"}}, *some[1:]]},
        "inputs in another order": {"inputs": some[::-1]},
        "nested data": {"inputs": [{**found, "data": [[cell] for cell in found["data"]]} for found in some]},
        "one dimension": {"inputs": [{**found, "shape": found["shape"][:1]} for found in some]},
        "FP32": {"inputs": _typed(some, shape, "FP32")},
        "whole numbers": {"inputs": _whole(one)},
    }.items():
        yield _post(name, f"{at}/infer", document, is_good=True)
    yield _post("a version by its name", f"{at}/versions/{version}/infer", {"inputs": some}, is_good=True)


def _refused(at: str, shape: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[Case]:
    good = columns(shape, rows)
    first, *others = good

    def changed(**members: Any) -> dict[str, Any]:
        return {"inputs": [{**first, **members}, *others]}

    def without(member: str) -> dict[str, Any]:
        return {"inputs": [{name: value for name, value in first.items() if name != member}, *others]}

    texts, numbers = ["many"] * len(rows), [1.5] * len(rows)
    for name, document in {
        "an unknown input": {"inputs": [*good, {**first, "name": "nobody"}]},
        "an input twice": {"inputs": [*good, first]},
        "an input too few": {"inputs": others},
        "another name": changed(name="nobody"),
        "an unknown datatype": changed(datatype="FP128"),
        "numbers as BYTES": changed(datatype="BYTES", data=texts),
        "texts as FP64": changed(data=texts),
        "categories as FP64": {"inputs": [*good[:-1], {**good[-1], "datatype": "FP64", "data": numbers}]},
        "fewer cells than rows": changed(data=first["data"][:-1]),
        "more cells than rows": changed(data=[*first["data"], 1.0]),
        "fewer rows than others": changed(shape=[len(rows) - 1, 1], data=first["data"][:-1]),
        "a row of two": changed(shape=[len(rows), 2], data=first["data"] * 2),
        "three dimensions": changed(shape=[len(rows), 1, 1]),
        "a negative shape": changed(shape=[-1, 1]),
        "a shape of texts": changed(shape=["2"]),
        "no name": without("name"),
        "no shape": without("shape"),
        "no datatype": without("datatype"),
        "no data": without("data"),
        "data that is an object": changed(data={"a": 1}),
        "an unknown output": {"inputs": good, "outputs": [{"name": "nobody"}]},
        "an output without a name": {"inputs": good, "outputs": [{}]},
        "outputs that are no list": {"inputs": good, "outputs": "probability"},
        "an id that is a number": {"id": 42, "inputs": good},
    }.items():
        yield _post(name, f"{at}/infer", document)
    yield _post("no such model", "/v2/models/nobody/infer", {"inputs": good})
    yield _post("no such version", f"{at}/versions/77/infer", {"inputs": good})


def _refused_bodies(at: str) -> Iterator[Case]:
    bodies = {
        "an empty body": b"",
        "no JSON": b'{"inputs": [',
        "no object": b"[1, 2]",
        "an object without inputs": b"{}",
        "inputs of none": b'{"inputs": []}',
        "inputs that are no list": b'{"inputs": {"a": 1}}',
        "an input that is no object": b'{"inputs": [1]}',
        "no UTF-8": b'{"inputs": "\xff"}',
    }
    for name, body in bodies.items():
        yield Case(name, "POST", f"{at}/infer", body, {"content-type": "application/json"})


def _binary(at: str, shape: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[Case]:
    good = columns(shape, rows)
    probability = [{"name": "probability", "parameters": {"binary_data": True}}]
    yield _mixed("binary in, JSON out", at, good, outputs=[{"name": "probability"}])
    yield _mixed("binary in and out", at, good, outputs=probability)
    yield _mixed("binary in and out by default", at, good, parameters={"binary_data_output": True})
    yield _mixed("JSON in, binary out", at, good, lambda _: False, outputs=probability)
    yield _mixed("some in binary", at, good, lambda found: found["datatype"] == "BYTES", id="7")
    yield _mixed("one row in binary", at, columns(shape, rows[:1]), outputs=probability)
    body, length = _packed(good)
    for name, sent, told in (
        ("binary data too few", body[:-3], length),
        ("binary data too many", body + b"abc", length),
        ("no length of the JSON", body, None),
        ("a length beyond the body", body, len(body) + 9),
        ("a length within the JSON", body, length - 9),
    ):
        headers = {} if told is None else {JSON_LENGTH: str(told)}
        yield Case(name, "POST", f"{at}/infer", sent, headers, is_binary=True)
    for name, size in (("a size too small", -1), ("a size too large", 8), ("a size of another type", "8")):
        sent, told = _packed(good, wrong=size)
        yield Case(name, "POST", f"{at}/infer", sent, {JSON_LENGTH: str(told)}, is_binary=True)
    torn = struct.pack("<I", 1000) + b"ab"
    sent, told = _packed(good[:-1], (good[-1], torn))
    yield Case("a text longer than its tensor", "POST", f"{at}/infer", sent, {JSON_LENGTH: str(told)}, is_binary=True)


def _post(name: str, path: str, document: Any, *, is_good: bool = False) -> Case:
    return Case(name, "POST", path, json.dumps(document).encode(), {"content-type": "application/json"}, is_good)


def _mixed(
    name: str, at: str, inputs: Sequence[Tensor], is_packed: Callable[[Tensor], bool] = lambda _: True, **members: Any
) -> Case:
    packed = [found for found in inputs if is_packed(found)]
    plain = [found for found in inputs if not is_packed(found)]
    body, length = _packed(packed, plain=plain, **members)
    headers = {JSON_LENGTH: str(length)} if packed else {}
    return Case(name, "POST", f"{at}/infer", body, headers, is_good=True, is_binary=True)


def _packed(
    inputs: Sequence[Tensor],
    last: tuple[Tensor, bytes] | None = None,
    *,
    plain: Sequence[Tensor] = (),
    wrong: Any = None,
    **members: Any,
) -> tuple[bytes, int]:
    """A body whose `inputs` are binary data, and how much of it is JSON; `wrong` is added to the first one's size."""
    raw = [(found, _data(found)) for found in inputs] + ([last] if last else [])
    heads = [
        {**{name: found[name] for name in ("name", "shape", "datatype")}, "parameters": {"binary_data_size": len(data)}}
        for found, data in raw
    ]
    if wrong is not None:
        size = heads[0]["parameters"]["binary_data_size"]
        heads[0]["parameters"] = {"binary_data_size": size + wrong if isinstance(wrong, int) else wrong}
    head = json.dumps({**members, "inputs": [*plain, *heads]}).encode()
    return head + b"".join(data for _, data in raw), len(head)


def _data(found: Tensor) -> bytes:
    if found["datatype"] == "BYTES":
        texts = [cell.encode() for cell in found["data"]]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return struct.pack(f"<{len(found['data'])}d", *found["data"])


def _typed(inputs: Sequence[Tensor], shape: Mapping[str, Any], datatype: str) -> list[Tensor]:
    numeric = {feature["name"] for feature in shape["numeric"]}
    return [{**found, "datatype": datatype} if found["name"] in numeric else found for found in inputs]


def _whole(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [
        found if found["datatype"] == "BYTES" else {**found, "data": [round(cell) for cell in found["data"]]}
        for found in inputs
    ]
