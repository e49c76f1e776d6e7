"""An answer of the Open Inference Protocol, read as its clients read it, and what two of them differ in."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.serving.protocol_cases import JSON_LENGTH, Case
from millrace.errors import shorten

_TOLERANCE = 1e-5

#: (peer, case) -> why the two may differ there.
REASONS: Mapping[tuple[str, str], str] = {
    ("mlserver", "model metadata"): "parameters may be left out; MLServer writes an empty object",
    ("mlserver", "version metadata"): "parameters may be left out; MLServer writes an empty object",
    ("mlserver", "nested data"): "nested data may come; MLServer's codec for texts reads nested ones as empty",
    ("mlserver", "categories as FP64"): "MLServer leaves datatypes to codecs; the one for texts looks at none",
    ("mlserver", "three dimensions"): "MLServer leaves shapes to the runtime, which is content with as many cells",
    ("mlserver", "a negative shape"): "MLServer leaves shapes to the runtime, where NumPy takes -1 for whatever fits",
    ("triton", "one dimension"): "Triton takes the shape of its configuration only; ours is [rows] or [rows, 1]",
    ("triton", "FP32"): "Triton takes the datatype of its configuration only; ours are all of numbers",
}
#: What Triton cannot parse it answers with 500. The protocol wants an error that is the caller's (400, as a rule).
_UNPARSED = ("Unable to parse", "failed to parse")


@dataclass(frozen=True)
class Answer:
    """Its status, its document (None where it has none), and the cells of each output."""

    status: int
    document: Any
    cells: Mapping[str, tuple[bool, list[Any]]] = field(default_factory=dict)
    """Of each output: whether they came as binary data, and what they are."""

    @classmethod
    def of(cls, answer: httpx.Response, *, is_inference: bool) -> Answer:
        """Read one.

        Raises:
            ValueError: its binary data is not what its outputs say.
        """
        length = int(answer.headers.get(JSON_LENGTH, len(answer.content)))
        try:
            document = json.loads(answer.content[:length])
        except ValueError:
            document = None
        cells: dict[str, tuple[bool, list[Any]]] = {}
        if is_inference and answer.is_success:
            for output in document["outputs"]:
                size = output.get("parameters", {}).get("binary_data_size")
                if size is None:
                    cells[output["name"]] = False, output["data"]
                else:
                    raw = answer.content[length : length + size]
                    cells[output["name"]] = True, list(struct.unpack(f"<{size // 4}f", raw))
                    length += size
        if length != len(answer.content):
            raise ValueError(f"{len(answer.content) - length} bytes of an answer belong to no output")
        return cls(answer.status_code, document, cells)

    @property
    def kind(self) -> str:
        """What its status says."""
        return {2: "answered", 4: "refused", 5: "failed"}.get(self.status // 100, str(self.status))

    @property
    def error(self) -> str:
        """What it says is wrong, where the protocol has that stand."""
        found = self.document.get("error") if isinstance(self.document, dict) else None
        return found if isinstance(found, str) else ""


def differences(peer: str, case: Case, ours: Answer, theirs: Answer) -> list[dict[str, Any]]:
    """What the two answers to a case differ in, each with why it may, or None."""
    why = REASONS.get((peer, case.name))
    if ours.kind == "refused" and theirs.status == 500 and any(text in theirs.error for text in _UNPARSED):
        why = "what cannot be parsed is the caller's error; Triton answers 500"
    return [
        {"peer": peer, "case": case.name, "what": shorten(what), "why": why}
        for what in _differences(case, ours, theirs)
    ]


def _differences(case: Case, ours: Answer, theirs: Answer) -> Iterator[str]:
    if ours.kind != theirs.kind:
        yield f"ours: {ours.kind} ({ours.status}), theirs: {theirs.kind} ({theirs.status}, {theirs.error})"
    elif ours.kind != "answered":
        if not ours.error:
            yield "ours has no error"
    elif case.method == "GET":
        yield from _of_metadata(ours.document, theirs.document)
    else:
        yield from _of_inference(ours, theirs)


def _of_metadata(ours: Any, theirs: Any) -> Iterator[str]:
    """Of what theirs tells: what ours does not, or tells otherwise. Ours may tell more, such as optional inputs."""
    for name, value in (theirs or {}).items():
        mine = (ours or {}).get(name)
        if name in ("inputs", "outputs"):
            one, other = _signature(mine), _signature(value)
            if lacking := sorted(set(other) - set(one)):
                yield f"{name}: ours has no {', '.join(lacking)}"
            for tensor in sorted(set(one) & set(other)):
                if one[tensor] != other[tensor]:
                    yield f"{name}: {tensor} is {one[tensor]}, theirs {other[tensor]}"
        elif type(mine) is not type(value):
            yield f"{name}: ours {mine!r}, theirs {value!r}"


def _signature(tensors: Any) -> dict[str, tuple[str, int]]:
    """Datatype and width of each; [rows] and [rows, 1] are both one wide."""
    found = {}
    for tensor in tensors or ():
        width = 1
        for length in tensor["shape"][1:]:
            width *= length
        found[tensor["name"]] = (tensor["datatype"], width)
    return found


def _of_inference(ours: Answer, theirs: Answer) -> Iterator[str]:
    for name in ("model_name", "model_version"):
        if ours.document.get(name) != theirs.document.get(name):
            yield f"{name}: ours {ours.document.get(name)!r}, theirs {theirs.document.get(name)!r}"
    if "id" in ours.document and ours.document["id"] != theirs.document.get("id"):
        yield f"id: ours {ours.document['id']!r}, theirs {theirs.document.get('id')!r}"
    one, other = (_signature(answer.document["outputs"]) for answer in (ours, theirs))
    if one != other:
        yield f"outputs: ours {one}, theirs {other}"
        return
    for name, (is_binary, cells) in ours.cells.items():
        told_binary, told = theirs.cells[name]
        if is_binary != told_binary:
            yield f"{name}: ours in {'binary' if is_binary else 'JSON'}, theirs is not"
        if len(cells) != len(told) or any(abs(a - b) > _TOLERANCE for a, b in zip(cells, told, strict=True)):
            yield f"{name}: ours {cells}, theirs {told}"
