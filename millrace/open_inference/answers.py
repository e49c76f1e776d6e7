"""What the model answers, as output tensors (`millrace.open_inference.signature`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from millrace.open_inference.requests import InferRequest
from millrace.open_inference.signature import Output, outputs_of
from millrace.open_inference.tensors import BYTES, texts_as_binary
from millrace.spec import PipelineSpec


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """A response's body; its first `json_length` bytes are JSON, where binary data follows."""

    body: bytes
    json_length: int | None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Its content type and, where binary data follows, where that begins."""
        if self.json_length is None:
            return [(b"content-type", b"application/json")]
        length = str(self.json_length).encode()
        return [(b"content-type", b"application/octet-stream"), (b"inference-header-content-length", length)]


class AnswerEncoder:
    """Writes answers to requests of one pipeline."""

    def __init__(self, spec: PipelineSpec) -> None:
        self._name = spec.name
        self._outputs = {output.name: output for output in outputs_of(spec.table.label)}
        self._classes = {name: name.encode() for name in spec.table.label.classes}

    def encode(
        self,
        request: InferRequest,
        *,
        version: str,
        request_id: str,
        prediction: Sequence[Any],
        probabilities: Mapping[str, Sequence[float]] | None = None,
    ) -> InferAnswer:
        """The response to `request`. `prediction` and `probabilities` are those of `inference_log.answer_record`.

        `request_id` is the one that the log has the rows under: outcomes are reported by it. It is told beside the
        caller's own `id`, which may be any text and come twice.
        """
        tensors: list[dict[str, Any]] = []
        parts: list[bytes] = []
        for wanted in request.outputs:
            output = self._outputs[wanted.name]
            shape = [len(prediction)] if output.width is None else [len(prediction), output.width]
            tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": shape}
            data: Sequence[Any] = prediction
            if output.width is not None:
                # Row by row, from a column a class.
                data = list(chain.from_iterable(zip(*(probabilities or {}).values(), strict=True)))
            if wanted.binary:
                parts.append(self._binary(data, output))
                tensor["parameters"] = {"binary_data_size": len(parts[-1])}
            else:
                tensor["data"] = data
            tensors.append(tensor)
        document: dict[str, Any] = {
            "model_name": self._name,
            "model_version": version,
            "parameters": {"request_id": request_id},
            "outputs": tensors,
        }
        if request.id is not None:
            document["id"] = request.id
        head = orjson.dumps(document)
        return InferAnswer(b"".join((head, *parts)), len(head)) if parts else InferAnswer(head, None)

    def _binary(self, data: Sequence[Any], output: Output) -> bytes:
        if output.datatype == BYTES:
            return texts_as_binary([self._classes[name] for name in data])
        return np.asarray(data, "<f4").tobytes()
