"""Inference requests, JSON alone or JSON and binary data, to the rows that the JSON protocol would give.

The protocol leaves open what follows; here it is so:

- **Inputs** are named as the contract's columns, [rows] or [rows, 1]. An input that is left out is missing in each row,
  which nullable features, the event's time and the row's name may be.
- **Numbers** come in any datatype of numbers; true is 1. A floating-point number in JSON is taken as it is written: its
  datatype says only how binary data lies. FP64 is what the log keeps; FP32 may round a number over a bound.
- **Missing** is null in JSON, and NaN in binary data. In a BYTES tensor, JSON or binary, the empty text is missing too,
  where something may be: not in a feature that is not nullable, nor in one that has '' among its values.
- **Event times** are BYTES, ISO 8601 as in the JSON protocol, or INT64, microseconds since 1970 UTC. Row ids are BYTES.
- **Parameters** that nobody defined are ignored, as the protocol lets anybody send some; those of extensions that would
  change what the request means (shared memory, sequences, classification) are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from millrace import request_values
from millrace.errors import RequestError
from millrace.open_inference.signature import Input, inputs_of, outputs_of
from millrace.open_inference.tensors import BYTES, INT64, NUMBERS, binary_numbers, binary_texts, json_cells
from millrace.request_values import Cells, Place, broken, escape, near
from millrace.requests import ParsedRequest, RequestContract, read_json, too_large, too_many
from millrace.spec import PipelineSpec

#: The header that tells how many bytes of the body are JSON, where binary data follows; in a request and a response.
HEADER_LENGTH = b"inference-header-content-length"

_REQUEST_KEYS = frozenset(("id", "model_name", "parameters", "inputs", "outputs"))
_INPUT_KEYS = frozenset(("name", "shape", "datatype", "parameters", "data"))
_OUTPUT_KEYS = frozenset(("name", "parameters"))
# Of extensions that are not here, and that would change what is read or answered.
_FOREIGN_PARAMETERS = ("shared_memory_", "sequence_", "classification")
MAX_ID_CHARS = 256


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output to answer with, as binary data or in JSON."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """An inference request that keeps the contract. `id` is the caller's own name for it, to be told back."""

    rows: ParsedRequest
    outputs: tuple[RequestedOutput, ...]
    id: str | None = None


@dataclass(slots=True)
class _Tensors:
    """The tensors of one request, as they are read one after the other."""

    body: bytes
    json_length: int
    position: int
    """Where the next tensor's binary data begins."""
    num_rows: int = 0
    cells: dict[str, Cells | NDArray[Any]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    whole_number_times: bool = False


class InferContract:
    """What callers of one pipeline may send as inference requests. Building it checks nothing; `decode` does."""

    def __init__(self, spec: PipelineSpec) -> None:
        self._contract = RequestContract(spec)
        self._name = spec.name
        self._data = spec.table
        self._inputs = {tensor.name: tensor for tensor in inputs_of(spec.table)}
        self._outputs = tuple(output.name for output in outputs_of(spec.table.label))

    def decode(self, body: bytes, header_length: bytes | None = None) -> InferRequest:
        """The rows of an inference request, encoded for the model, and how it wants them answered.

        `header_length` is the value of its header `HEADER_LENGTH`, where it has one.

        Raises:
            RequestError: it breaks the contract; `field` points at the first place that does. Binary data is pointed
                at as if it stood in `data`.
            RequestTooLargeError: more bytes or rows than `serving` allows.
        """
        if len(body) > self._contract.max_body_bytes:
            raise too_large(len(body), self._contract.max_body_bytes)
        json_length = len(body) if header_length is None else _json_length(header_length, len(body))
        document = read_json(body if json_length == len(body) else body[:json_length])
        if type(document) is not dict:
            raise broken("", "object", document, '{"inputs": [...]}')
        _require_known(document, _REQUEST_KEYS, "")
        if document.get("model_name", self._name) != self._name:
            raise broken("/model_name", "model", document["model_name"], f"'{self._name}', or none")
        name = document.get("id")
        if name is not None and (type(name) is not str or len(name) > MAX_ID_CHARS):
            raise broken("/id", "id", name, f"a string of at most {MAX_ID_CHARS} characters")
        outputs = self._requested(document)
        inputs = document.get("inputs")
        if type(inputs) is not list or not inputs:
            raise broken("/inputs", "list of at least one", inputs, "a list of input tensors")
        tensors = _Tensors(body, json_length, json_length)
        for index, tensor in enumerate(inputs):
            self._read(tensor, f"/inputs/{index}", tensors)
        if tensors.position != len(body):
            raise RequestError(
                "the body has more binary data than its inputs",
                rule="binary_data_size",
                got=f"{len(body) - json_length} bytes",
                allowed=f"{tensors.position - json_length} bytes, the sum of binary_data_size",
                next="correct the sizes, or the header inference-header-content-length",
            )
        return InferRequest(self._rows(tensors), outputs, name)

    def _read(self, tensor: Any, at: str, tensors: _Tensors) -> None:
        """Add the cells of one input tensor to `tensors`."""
        if type(tensor) is not dict:
            raise broken(at, "object", tensor, '{"name", "shape", "datatype", "data"}')
        _require_known(tensor, _INPUT_KEYS, at)
        asked = tensor.get("name")
        known = self._inputs.get(asked) if type(asked) is str else None
        if known is None:
            rule = "required" if asked is None else "unknown input"
            raise broken(f"{at}/name", rule, asked, near(asked, self._inputs))
        name = known.name
        if name in tensors.cells:
            raise broken(f"{at}/name", "duplicate", name, "each input once")
        datatype = tensor.get("datatype")
        if type(datatype) is not str or datatype not in known.datatypes:
            rule = "required" if datatype is None else "datatype"
            raise broken(f"{at}/datatype", rule, datatype, f"one of: {', '.join(known.datatypes)}", column=name)
        is_matrix = self._check_shape(tensor.get("shape"), at, name, tensors)
        parameters = _parameters(tensor, at)
        size = parameters.get("binary_data_size")
        cells: Cells | NDArray[Any]
        if size is None:
            cells, place = json_cells(tensor.get("data"), datatype, tensors.num_rows, is_matrix, at, name)
        else:
            if tensor.get("data") is not None:
                raise broken(f"{at}/data", "binary_data_size", "data", "data, or binary_data_size", column=name)
            place = Place(f"{at}/data/", "", name)
            cells = _binary_cells(size, datatype, tensors, at, place)
        if known.empty_is_missing and datatype == BYTES:
            cells = [None if cell == "" else cell for cell in cells]
        if known.kind == "time":
            tensors.whole_number_times = datatype == INT64
        tensors.cells[name] = cells
        tensors.places[name] = place

    def _check_shape(self, shape: Any, at: str, name: str, tensors: _Tensors) -> bool:
        """Whether it is [rows, 1]; the first tensor says how many rows there are."""
        if (
            type(shape) is not list
            or not 1 <= len(shape) <= 2
            or type(shape[0]) is not int
            or shape[0] < 1
            or (len(shape) == 2 and (type(shape[1]) is not int or shape[1] != 1))
        ):
            rows = tensors.num_rows or "rows"
            rule = "required" if shape is None else "shape"
            raise broken(f"{at}/shape", rule, shape, f"[{rows}] or [{rows}, 1]", column=name)
        if not tensors.num_rows:
            if shape[0] > self._contract.max_rows:
                raise too_many(f"{at}/shape/0", shape[0], self._contract.max_rows)
            tensors.num_rows = shape[0]
        elif shape[0] != tensors.num_rows:
            raise broken(f"{at}/shape/0", "shape", shape[0], f"{tensors.num_rows}, as before", column=name)
        return len(shape) == 2

    def _rows(self, tensors: _Tensors) -> ParsedRequest:
        for name, known in self._inputs.items():
            if name not in tensors.cells:
                if known.required:
                    raise _missing(known, tensors)
                tensors.cells[name] = [None] * tensors.num_rows
                tensors.places[name] = Place("/inputs/", "", name)
        batch, columns = self._contract.features(tensors.cells, tensors.places)
        time, row_id = self._data.event_time, self._data.row_id
        read_times = request_values.moments if tensors.whole_number_times else request_values.times
        return ParsedRequest(
            batch=batch,
            columns=columns,
            event_times=read_times(tensors.cells[time], tensors.places[time]),
            row_ids=request_values.row_ids(tensors.cells[row_id], tensors.places[row_id]),
        )

    def _requested(self, document: dict[str, Any]) -> tuple[RequestedOutput, ...]:
        """The outputs that are asked for, in that order; all of them, when none are."""
        by_default = _flag(_parameters(document, ""), "binary_data_output", "", default=False)
        outputs = document.get("outputs")
        if outputs is None or outputs == []:
            return tuple(RequestedOutput(name, by_default) for name in self._outputs)
        if type(outputs) is not list:
            raise broken("/outputs", "list", outputs, "a list of outputs")
        found: dict[str, RequestedOutput] = {}
        for index, output in enumerate(outputs):
            at = f"/outputs/{index}"
            if type(output) is not dict:
                raise broken(at, "object", output, '{"name"}')
            _require_known(output, _OUTPUT_KEYS, at)
            name = output.get("name")
            if type(name) is not str or name not in self._outputs:
                rule = "required" if name is None else "unknown output"
                raise broken(f"{at}/name", rule, name, near(name, self._outputs))
            if name in found:
                raise broken(f"{at}/name", "duplicate", name, "each output once")
            found[name] = RequestedOutput(name, _flag(_parameters(output, at), "binary_data", at, default=by_default))
        return tuple(found.values())


def _binary_cells(size: Any, datatype: str, tensors: _Tensors, at: str, place: Place) -> Cells | NDArray[Any]:
    """The cells of a tensor whose `size` bytes come next in the body."""
    left = len(tensors.body) - tensors.position
    number = NUMBERS.get(datatype)
    expected = size if number is None else number.dtype.itemsize * tensors.num_rows
    if type(size) is not int or not 0 <= size <= left or size != expected:
        field = f"{at}/parameters/binary_data_size"
        if tensors.json_length == len(tensors.body):
            raise RequestError(
                "the whole body is JSON: no binary data follows it",
                field=field,
                rule="binary_data_size",
                got=size,
                allowed="none",
                next=f"send the header {HEADER_LENGTH.decode()}, or the data in JSON",
            )
        allowed = f"{left} bytes are left"
        if number is not None:
            allowed = f"{expected}, for {tensors.num_rows} of {datatype}; {allowed}"
        raise broken(field, "binary_data_size", size, allowed, column=place.column)
    start, tensors.position = tensors.position, tensors.position + size
    if number is None:
        return binary_texts(tensors.body, start, size, tensors.num_rows, place)
    return binary_numbers(tensors.body, start, number, tensors.num_rows, place)


def _json_length(header: bytes, body_length: int) -> int:
    """The number of bytes that are JSON, as the header says."""
    # Python refuses to read a number of many thousand digits.
    length = int(header) if header.isdigit() and len(header) <= 20 else -1
    if not 0 < length <= body_length:
        raise RequestError(
            f"header {HEADER_LENGTH.decode()} breaks its rule",
            field=HEADER_LENGTH.decode(),
            rule="length",
            got=header.decode("latin-1"),
            allowed=f"the bytes of JSON, at most the {body_length} of the body",
            next="correct the header, or leave it out when the body is JSON alone",
        )
    return length


def _require_known(document: dict[str, Any], known: frozenset[str], at: str) -> None:
    if not document.keys() <= known:
        name = next(key for key in document if key not in known)
        raise broken(f"{at}/{escape(name)}", "unknown key", name, near(name, known))


def _parameters(document: dict[str, Any], at: str) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise broken(f"{at}/parameters", "object", parameters, "an object")
    for name in parameters:
        if name.startswith(_FOREIGN_PARAMETERS):
            raise broken(
                f"{at}/parameters/{escape(name)}", "extension", name, "binary_tensor_data is the only extension"
            )
    return parameters


def _flag(parameters: dict[str, Any], name: str, at: str, *, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise broken(f"{at}/parameters/{name}", "boolean", value, "true or false")
    return value


def _missing(known: Input, tensors: _Tensors) -> RequestError:
    return RequestError(
        f"input '{known.name}' is missing",
        field="/inputs",
        rule="required",
        got=list(tensors.cells),
        allowed=f"{known.name}: {known.datatypes[0]} [{tensors.num_rows}]",
        next="send it: only what may be missing may be left out",
    )
