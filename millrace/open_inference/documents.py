"""The protocol's documents about a server, its model and its health, and its errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace import __version__
from millrace.open_inference.signature import inputs_of, outputs_of
from millrace.spec import PipelineSpec

#: What a model's files are: `<project>_<format>`, as the protocol wants it.
PLATFORM = "pytorch_safetensors"

EXTENSIONS = ("binary_tensor_data",)


def server_metadata() -> dict[str, Any]:
    """The answer to `GET /v2`."""
    return {"name": "millrace", "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(spec: PipelineSpec, version: str) -> dict[str, Any]:
    """The answer to `GET /v2/models/NAME`, of the version that answers.

    Optional inputs are listed too, after the features; a datatype is the one to prefer of those that are taken.
    """
    inputs = [{"name": t.name, "datatype": t.datatypes[0], "shape": [-1]} for t in inputs_of(spec.table)]
    outputs = [
        {"name": t.name, "datatype": t.datatype, "shape": [-1] if t.width is None else [-1, t.width]}
        for t in outputs_of(spec.table.label)
    ]
    return {"name": spec.name, "versions": [version], "platform": PLATFORM, "inputs": inputs, "outputs": outputs}


def server_live() -> dict[str, Any]:
    """The answer to `GET /v2/health/live`, of a process that can answer at all."""
    return {"live": True}


def server_ready() -> dict[str, Any]:
    """The answer to `GET /v2/health/ready` once a version answers; until then it is an error, 503."""
    return {"ready": True}


def model_ready(name: str) -> dict[str, Any]:
    """The answer to `GET /v2/models/NAME/ready` once a version answers; until then it is an error, 503."""
    return {"name": name, "ready": True}


def with_error(problem: Mapping[str, Any]) -> dict[str, Any]:
    """A problem document (RFC 9457) with the member `error`, in which the protocol's clients look for the message."""
    parts = [problem["detail"], *(f"{name}: {problem[name]}" for name in ("got", "allowed", "next") if name in problem)]
    return {**problem, "error": "; ".join(parts)}
