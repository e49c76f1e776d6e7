"""The OpenAPI 3.1 document of a pipeline's service, made from its spec: its paths, what they take and what they answer.

The schemas are the contract's (`millrace.openapi_schemas`): what they refuse is refused, and what they allow is
answered, but for what JSON Schema cannot say, such as which texts are times.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from millrace import openapi_schemas as schemas
from millrace.errors import (
    ContentEncodingError,
    ForeignRequestError,
    RequestError,
    RequestTooLargeError,
    ServiceError,
    TooManyRequestsError,
    UnknownCallerError,
    UnknownNameError,
)
from millrace.open_inference.paths import PATHS, Operation
from millrace.open_inference.requests import HEADER_LENGTH
from millrace.request_values import REQUEST_ID
from millrace.spec import PipelineSpec
from millrace.traces.context import TRACEPARENT, TRACESTATE

Document = dict[str, Any]

_FAILED = HTTPStatus.INTERNAL_SERVER_ERROR.value
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_BINARY = "application/octet-stream"
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_TRACEPARENT_PATTERN = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
# A key, or none where the service demands none.
_SECURITY: list[Document] = [{"key": []}, {}]

#: The problems that an operation may answer with.
_PROBLEMS = {
    UnknownCallerError.http_status: "The request has no valid key, and this service demands one.",
    ForeignRequestError.http_status: "A page of another origin asks, a foreign host name, or another's key.",
    UnknownNameError.http_status: "The path names another model, a version that does not answer, or nothing.",
    RequestTooLargeError.http_status: "More bytes or rows than the service takes in one request.",
    ContentEncodingError.http_status: "The body is compressed.",
    RequestError.http_status: "The request breaks the contract; `field` says where, `rule` how.",
    TooManyRequestsError.http_status: "The customer asks more often than it may, or has used up its quota of today.",
    _FAILED: "The service failed; its log names the request id.",
    ServiceError.http_status: "No version is loaded yet, or a part of the service does not answer.",
}
_OF_POST = (
    UnknownCallerError.http_status,
    ForeignRequestError.http_status,
    RequestTooLargeError.http_status,
    ContentEncodingError.http_status,
    RequestError.http_status,
    TooManyRequestsError.http_status,
    _FAILED,
    ServiceError.http_status,
)
_OF_GET = (RequestError.http_status, _FAILED)
_OF_VERSION = (*_OF_GET, ServiceError.http_status)
_OF_NAME = (UnknownNameError.http_status,)
_OF_OPERATOR = (*_OF_VERSION, UnknownCallerError.http_status, ForeignRequestError.http_status, *_OF_NAME)

#: The headers that come with a problem.
_PROBLEM_HEADERS = {
    UnknownCallerError.http_status: {"www-authenticate": "What kind of key is demanded."},
    ContentEncodingError.http_status: {"accept-encoding": "What the service takes."},
    TooManyRequestsError.http_status: {
        "retry-after": "Seconds after which it may ask again; of a quota, those until midnight (UTC)."
    },
}


def document(spec: PipelineSpec, version: str) -> Document:
    """The document of the service that answers with `version` of the pipeline, to be served at `/openapi.json`.

    Paths are relative to where the service is mounted, `/v1/NAME`.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": spec.name,
            "version": version,
            "summary": f"Predictions of the pipeline {spec.name}.",
            **({"description": spec.description} if spec.description else {}),
        },
        "servers": [{"url": f"/v1/{spec.name}"}],
        "paths": _own_paths() | _open_inference_paths(spec),
        "components": {
            "schemas": schemas.of(spec, sorted((*_PROBLEMS, HTTPStatus.METHOD_NOT_ALLOWED.value))),
            "responses": {_problem_name(status): _problem(status) for status in _PROBLEMS},
            "parameters": {
                "RequestId": {
                    "name": "x-request-id",
                    "in": "header",
                    "description": "The caller's name for the request; without it the service makes one.",
                    "schema": {"type": "string", "pattern": f"^{REQUEST_ID.pattern}$"},
                },
                "JsonLength": {
                    "name": HEADER_LENGTH.decode(),
                    "in": "header",
                    "description": "How many bytes of the body are JSON, where binary data follows.",
                    "schema": {"type": "integer", "minimum": 1, "maximum": spec.serving.max_body_bytes},
                },
                "TraceParent": {
                    "name": TRACEPARENT.decode(),
                    "in": "header",
                    "description": "The caller's span, by W3C Trace Context: the request's trace goes on from it. "
                    "One that is not valid is ignored.",
                    "schema": {"type": "string", "examples": [_TRACEPARENT]},
                },
                "TraceState": {
                    "name": TRACESTATE.decode(),
                    "in": "header",
                    "description": "What the caller's tracing systems hand on with it, by W3C Trace Context.",
                    "schema": {"type": "string"},
                },
            },
            "headers": {
                "RequestId": {
                    "description": "The request's name, by which outcomes are reported.",
                    "required": True,
                    "schema": {"type": "string"},
                },
                "JsonLength": {
                    "description": "How many bytes of the body are JSON, where binary data follows.",
                    "schema": {"type": "integer"},
                },
                "TraceParent": {
                    "description": "The span of a request for predictions, by W3C Trace Context, answered or refused; "
                    "below the caller's, where that was sent.",
                    "schema": {"type": "string", "pattern": _TRACEPARENT_PATTERN, "examples": [_TRACEPARENT]},
                },
            },
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A customer's key, where the service demands one: `millrace keys create`.",
                }
            },
        },
    }


def _own_paths() -> Document:
    return {
        "/predict": {
            "post": _traced(
                _post(
                    "predict",
                    "Predictions for rows, in their order.",
                    {_JSON: {"schema": _ref("PredictRequest")}},
                    {"200": _answer("The predictions.", "PredictAnswer")},
                )
            )
        },
        "/outcomes": {
            "post": _post(
                "report_outcomes",
                "Labels that became known. The newest of a row counts.",
                {_JSON: {"schema": _ref("OutcomesRequest")}},
                {"202": _answer("The outcomes are in the log.", "OutcomesAnswer")},
            )
        },
        "/health": {"get": _get("health", "Whether the process lives.", "Health", _OF_GET)},
        "/ready": {"get": _get("ready", "Whether a version answers, and which.", "Ready", _OF_VERSION)},
        "/metrics": {"get": _metrics()},
        "/": {"get": _get("describe", "The version that answers, and its contract.", "Description", _OF_VERSION)},
        "/openapi.json": {"get": _get("openapi", "This document.", "OpenApi", _OF_VERSION)},
    }


def _open_inference_paths(spec: PipelineSpec) -> Document:
    """The paths of the Open Inference Protocol; the only model is the pipeline."""
    paths: Document = {}
    for template, operation in PATHS.items():
        item: Document = {"post" if operation == "infer" else "get": _open_inference(template, operation)}
        if "{version}" in template:
            description = "The version that answers; another is not found."
            schema = {"type": "string"}
            item["parameters"] = [
                {"name": "version", "in": "path", "required": True, "description": description, "schema": schema}
            ]
        paths[template.replace("{model}", spec.name)] = item
    return paths


def _open_inference(template: str, operation: Operation) -> Document:
    suffix = "_of_version" if "{version}" in template else ""
    name = f"v2_{operation}{suffix}"
    match operation:
        case "server":
            return _get(name, "The server, and the extensions it knows.", "ServerMetadata", _OF_GET)
        case "server_live":
            return _get(name, "Whether the process lives.", "ServerLive", _OF_GET)
        case "server_ready":
            return _get(name, "Whether a version answers.", "ServerReady", _OF_VERSION)
        case "model":
            return _get(name, "The model's inputs and outputs.", "ModelMetadata", (*_OF_VERSION, *_OF_NAME))
        case "model_ready":
            return _get(name, "Whether the model answers.", "ModelReady", (*_OF_VERSION, *_OF_NAME))
    answer = _answer("The output tensors, as JSON or, where asked for, binary data after JSON.", "InferAnswer")
    answer["content"][_BINARY] = {}
    answer["headers"]["inference-header-content-length"] = {"$ref": "#/components/headers/JsonLength"}
    found = _post(
        name,
        "Predictions by the Open Inference Protocol: an input tensor a feature.",
        {_JSON: {"schema": _ref("InferRequest")}, _BINARY: {}},
        {"200": answer},
        _OF_NAME,
    )
    found["description"] = (
        f"A body of {_BINARY} is JSON and after it the binary data of the inputs that have the parameter "
        "`binary_data_size` in place of `data`, in their order."
    )
    found["parameters"].append({"$ref": "#/components/parameters/JsonLength"})
    return _traced(found)


def _traced(operation: Document) -> Document:
    """An operation that asks for predictions: it takes the caller's trace on, and tells its own span."""
    operation["parameters"] += [{"$ref": f"#/components/parameters/{name}"} for name in ("TraceParent", "TraceState")]
    operation["responses"]["200"]["headers"][TRACEPARENT.decode()] = {"$ref": "#/components/headers/TraceParent"}
    return operation


def _get(name: str, summary: str, schema: str, problems: tuple[int, ...]) -> Document:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [{"$ref": "#/components/parameters/RequestId"}],
        "responses": {"200": _answer("The answer.", schema), **_problems(problems)},
    }


def _metrics() -> Document:
    return {
        "operationId": "metrics",
        "summary": "What the replicas of this host did, for Prometheus; for who runs the service.",
        "parameters": [{"$ref": "#/components/parameters/RequestId"}],
        "responses": {
            "200": {"description": "The series.", "content": {"text/plain": {"schema": {"type": "string"}}}},
            **_problems(_OF_OPERATOR),
        },
        "security": _SECURITY,
    }


def _post(name: str, summary: str, content: Document, answers: Document, problems: tuple[int, ...] = ()) -> Document:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [{"$ref": "#/components/parameters/RequestId"}],
        "requestBody": {"required": True, "content": content},
        "responses": {**answers, **_problems((*_OF_POST, *problems))},
        "security": _SECURITY,
    }


def _answer(description: str, schema: str) -> Document:
    return {
        "description": description,
        "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
        "content": {_JSON: {"schema": _ref(schema)}},
    }


def _problem(status: int) -> Document:
    headers: Document = {
        "x-request-id": {"$ref": "#/components/headers/RequestId"},
        TRACEPARENT.decode(): {"$ref": "#/components/headers/TraceParent"},
    }
    for name, description in _PROBLEM_HEADERS.get(status, {}).items():
        headers[name] = {"description": description, "schema": {"type": "string"}}
    return {
        "description": _PROBLEMS[status],
        "headers": headers,
        "content": {_PROBLEM: {"schema": _ref("Problem")}},
    }


def _problems(statuses: tuple[int, ...]) -> Document:
    return {str(status): {"$ref": f"#/components/responses/{_problem_name(status)}"} for status in sorted(statuses)}


def _problem_name(status: int) -> str:
    return f"Problem{status}"


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}
