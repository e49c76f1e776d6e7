"""The JSON Schemas (2020-12) of what a pipeline's service takes and answers, made from its spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from millrace.open_inference.requests import MAX_ID_CHARS
from millrace.open_inference.signature import Input, Output, inputs_of, outputs_of
from millrace.request_values import LARGEST, MAX_ROW, MAX_ROW_ID_CHARS, REQUEST_ID, number_bounds
from millrace.spec import CategoricalFeature, Feature, Label, NumericFeature, PipelineSpec, TableSpec

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_STRINGS: Schema = {"type": "array", "items": _STRING}
_REQUEST_ID: Schema = {"type": "string", "pattern": f"^{REQUEST_ID.pattern}$"}
_TIME: Schema = {"type": ["string", "null"], "format": "date-time", "examples": ["2013-06-01T12:00:00Z"]}
_MOMENT: Schema = {"type": "integer", "description": "microseconds since 1970 UTC"}
_ROW_ID: Schema = {"type": ["string", "integer", "null"], "maxLength": MAX_ROW_ID_CHARS}
_PARAMETERS: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean"]},
    "description": "Those that nobody has defined are ignored.",
}
_MAX_EXAMPLES = 5


def of(spec: PipelineSpec, statuses: Sequence[int]) -> dict[str, Schema]:
    """The schemas by name. `statuses` are those that problems may have."""
    data, serving = spec.table, spec.serving
    return {
        "Row": _row(data),
        "PredictRequest": _closed({"rows": _items("Row", serving.max_rows)}),
        "Prediction": _prediction(data.label),
        "PredictAnswer": _open(
            {"request_id": _STRING, "version": _STRING, "predictions": _items("Prediction", serving.max_rows)}
        ),
        "Outcome": _outcome(data.label),
        "OutcomesRequest": _closed({"outcomes": _items("Outcome", serving.max_rows)}),
        "OutcomesAnswer": _open({"request_id": _STRING, "accepted": {"type": "integer", "minimum": 1}}),
        "Health": _open({"status": {"const": "alive"}}),
        "Ready": _open({"status": {"const": "ready"}, "version": _STRING}),
        "Description": _description(),
        "OpenApi": {"type": "object", "description": "An OpenAPI document."},
        "Problem": _problem(statuses),
        **_open_inference(spec),
    }


def _row(data: TableSpec) -> Schema:
    properties = {name: _cell(feature) for name, feature in data.features.items()}
    properties[data.event_time] = {**_TIME, "description": "When the event was; now, where it is missing."}
    properties[data.row_id] = {**_ROW_ID, "description": "The caller's name for the row."}
    return _closed(properties, [name for name, feature in data.features.items() if not feature.nullable])


def _cell(feature: Feature) -> Schema:
    """A feature's cell, in a row and in a tensor alike."""
    described = {"description": feature.description} if feature.description else {}
    if isinstance(feature, NumericFeature):
        low, high = number_bounds(feature)
        return {"type": _type("number", feature.nullable), "minimum": low, "maximum": high, **described}
    values: Schema
    if feature.open:
        values = {"examples": feature.values[:_MAX_EXAMPLES]}
    else:
        values = {"enum": [*feature.values, None] if feature.nullable else list(feature.values)}
    return {"type": _type("string", feature.nullable), **values, **described}


def _prediction(label: Label) -> Schema:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    if label.kind == "binary":
        return _open({"probability": {**share, "description": "Of the positive class."}})
    if label.kind == "regression":
        return _open({"value": {"type": "number"}})
    classes = {"class": {"enum": list(label.classes)}}
    return _open({**classes, "probabilities": _open(dict.fromkeys(label.classes, share))})


def _outcome(label: Label) -> Schema:
    properties = {
        "request_id": _REQUEST_ID,
        "row": {"type": "integer", "minimum": 0, "maximum": MAX_ROW, "default": 0},
        "label": _label(label),
        "known_at": {**_TIME, "description": "When the label became known; now, where it is missing."},
    }
    return _closed(properties, ["request_id", "label"])


def _label(label: Label) -> Schema:
    if label.kind == "multiclass":
        return {"enum": list(label.classes)}
    if label.positive is not None:
        return {"type": "string", "description": f"'{label.positive}' counts as 1."}
    if label.kind == "binary":
        return {"enum": [0, 1]}
    return {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}


def _description() -> Schema:
    contract = {
        "event_time": _STRING,
        "row_id": _STRING,
        "features": {"type": "object"},
        "label": {"enum": ["binary", "multiclass", "regression"]},
        "max_rows": {"type": "integer"},
        "max_body_bytes": {"type": "integer"},
    }
    return _open(
        {
            "pipeline": _STRING,
            "description": _STRING,
            "version": _STRING,
            "package_digest": _STRING,
            "contract": _open(contract),
        }
    )


def _problem(statuses: Sequence[int]) -> Schema:
    properties = {
        "type": {"type": "string", "format": "uri", "examples": ["urn:millrace:error:request"]},
        "title": {**_STRING, "description": "The status in words."},
        "status": {"enum": list(statuses)},
        "detail": {**_STRING, "description": "What is wrong."},
        "got": {**_STRING, "description": "What was got, shortened."},
        "field": {**_STRING, "description": "JSON pointer to the first place that is wrong, or a header's name."},
        "rule": {**_STRING, "description": "The rule that is broken."},
        "allowed": {**_STRING, "description": "What is allowed."},
        "next": {**_STRING, "description": "What to do."},
        "error": {**_STRING, "description": "All of it in one text, on the paths below /v2."},
        "request_id": _STRING,
    }
    return {
        **_open(properties, ["type", "title", "status", "detail", "request_id"]),
        "description": "A problem document (RFC 9457).",
    }


def _open_inference(spec: PipelineSpec) -> dict[str, Schema]:
    """The documents of the Open Inference Protocol."""
    data, max_rows = spec.table, spec.serving.max_rows
    inputs, outputs = inputs_of(data), outputs_of(data.label)
    flag = {"type": ["boolean", "null"]}
    wanted = {"name": {"enum": [t.name for t in outputs]}, "parameters": _with_flag("binary_data", flag)}
    request: dict[str, Schema] = {
        "id": {"type": ["string", "null"], "maxLength": MAX_ID_CHARS, "description": "It is told back."},
        "model_name": {"const": spec.name},
        "parameters": _with_flag("binary_data_output", flag),
        "inputs": {
            "type": "array",
            "items": {"oneOf": [_input(tensor, data, max_rows) for tensor in inputs]},
            # Each at most once, and those at least that may not be missing.
            "allOf": [_holds(tensor) for tensor in inputs],
            "minItems": 1,
        },
        "outputs": {"type": ["array", "null"], "items": _closed(wanted, ["name"]), "maxItems": len(outputs)},
    }
    answer = {
        "model_name": {"const": spec.name},
        "model_version": _STRING,
        "id": _STRING,
        "parameters": _open({"request_id": {**_STRING, "description": "By which outcomes are reported."}}),
        "outputs": {"type": "array", "items": {"oneOf": [_output(tensor, data.label, max_rows) for tensor in outputs]}},
    }
    tensor = _open({"name": _STRING, "datatype": _STRING, "shape": {"type": "array", "items": {"type": "integer"}}})
    tensors = {"type": "array", "items": tensor}
    model = {"name": _STRING, "versions": _STRINGS, "platform": _STRING, "inputs": tensors, "outputs": tensors}
    return {
        "InferRequest": _closed(request, ["inputs"]),
        "InferAnswer": _open(answer, ["model_name", "model_version", "outputs"]),
        "ServerMetadata": _open({"name": _STRING, "version": _STRING, "extensions": _STRINGS}),
        "ServerLive": _open({"live": {"const": True}}),
        "ServerReady": _open({"ready": {"const": True}}),
        "ModelMetadata": _open(model),
        "ModelReady": _open({"name": _STRING, "ready": {"const": True}}),
    }


def _input(tensor: Input, data: TableSpec, max_rows: int) -> Schema:
    cell = _tensor_cell(tensor, data)
    return _closed(
        {
            "name": {"const": tensor.name},
            "shape": {
                "type": "array",
                "prefixItems": [{"type": "integer", "minimum": 1, "maximum": max_rows}, {"const": 1}],
                "minItems": 1,
                "maxItems": 2,
            },
            "datatype": {"enum": [datatype for datatype in tensor.datatypes if datatype != "FP16"]},
            "parameters": {**_PARAMETERS, "type": ["object", "null"]},
            "data": {
                "type": "array",
                "items": {"anyOf": [cell, {"type": "array", "items": cell, "minItems": 1, "maxItems": 1}]},
                "minItems": 1,
                "maxItems": max_rows,
            },
        },
        ["name", "shape", "datatype", "data"],
    )


def _tensor_cell(tensor: Input, data: TableSpec) -> Schema:
    """A cell of the tensor: as in a row, and besides true and false, the empty text, or a time as a whole number."""
    if tensor.kind == "time":
        return {"anyOf": [_TIME, _MOMENT]}
    if tensor.kind == "row_id":
        return _ROW_ID
    feature = data.features[tensor.name]
    cell = _cell(feature)
    if tensor.kind == "number":
        return {"anyOf": [cell, {"type": "boolean"}]}
    if tensor.empty_is_missing and isinstance(feature, CategoricalFeature) and not feature.open:
        return {**cell, "enum": [*cell["enum"], ""]}
    return cell


def _holds(tensor: Input) -> Schema:
    named = {"type": "object", "properties": {"name": {"const": tensor.name}}, "required": ["name"]}
    return {"contains": named, "minContains": 1 if tensor.required else 0, "maxContains": 1}


def _output(tensor: Output, label: Label, max_rows: int) -> Schema:
    rows = {"type": "integer", "minimum": 1, "maximum": max_rows}
    shape = [rows] if tensor.width is None else [rows, {"const": tensor.width}]
    cell: Schema = {"type": "number"} if tensor.datatype != "BYTES" else {"enum": list(label.classes)}
    schema = _open(
        {
            "name": {"const": tensor.name},
            "datatype": {"const": tensor.datatype},
            "shape": {"type": "array", "prefixItems": shape, "minItems": len(shape), "maxItems": len(shape)},
            "data": {"type": "array", "items": cell},
            "parameters": _PARAMETERS,
        },
        ["name", "datatype", "shape"],
    )
    if tensor.width is not None:
        schema["description"] = f"Row by row, in each the classes in this order: {', '.join(label.classes)}."
    return schema


def _with_flag(name: str, flag: Schema) -> Schema:
    return {**_PARAMETERS, "type": ["object", "null"], "properties": {name: flag}}


def _items(name: str, most: int) -> Schema:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}, "minItems": 1, "maxItems": most}


def _type(name: str, nullable: bool) -> str | list[str]:
    return [name, "null"] if nullable else name


def _closed(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    """An object that may hold nothing else: what callers send."""
    return {**_open(properties, required), "additionalProperties": False}


def _open(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    """An object that may hold more one day: what the service answers."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }
