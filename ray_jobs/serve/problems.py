"""Errors as RFC 9457 problem documents: what went wrong, where, what is allowed and what to do next."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import orjson

from millrace.errors import ContentEncodingError, MillraceError, OverloadedError, RequestError, TooManyRequestsError
from millrace.open_inference import with_error
from ray_jobs.serve.asgi import Reply

CONTENT_TYPE = b"application/problem+json"

#: The header with which a replica asks the ingress to refuse a customer's next requests; `haproxy_config` acts on it.
HOLD = b"x-ingress-hold"


class NoRouteError(RequestError):
    """A path that this service does not have."""

    http_status = 404


class MethodError(RequestError):
    """A path that is there, asked with another method."""

    http_status = 405


def problem(error: Exception, request_id: str, *, by_open_inference: bool = False) -> Reply:
    """The problem document for `error`, with the headers that belong to its status, in the protocol it came by."""
    status, document = _document(error, request_id)
    if by_open_inference:
        document = with_error(document)
    return Reply(status, orjson.dumps(document), CONTENT_TYPE, tuple(_headers(error, status)))


def _headers(error: Exception, status: int) -> Iterator[tuple[bytes, bytes]]:
    if status == HTTPStatus.UNAUTHORIZED:
        yield b"www-authenticate", b'Bearer realm="millrace"'
    if isinstance(error, TooManyRequestsError | OverloadedError):
        # Whole seconds, and never too few.
        yield b"retry-after", str(math.ceil(error.retry_after)).encode()
    if isinstance(error, TooManyRequestsError) and error.can_be_held:
        # For the ingress, which keeps it.
        yield HOLD, b"1"
    if isinstance(error, ContentEncodingError):
        # RFC 9110, section 15.5.16: what would have been taken.
        yield b"accept-encoding", b"identity"
    if isinstance(error, MethodError) and error.allowed is not None:
        yield b"allow", error.allowed.encode()


def _document(error: Exception, request_id: str) -> tuple[int, dict[str, Any]]:
    """Status and problem document. What is inside the service stays inside: the log has it."""
    if not isinstance(error, MillraceError) or error.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return 500, {
            "type": "urn:millrace:error:internal",
            "title": HTTPStatus.INTERNAL_SERVER_ERROR.phrase,
            "status": 500,
            "detail": "the service failed; its log names this request id",
            "next": "send the request again, or give the request id to who runs the service",
            "request_id": request_id,
        }
    status = error.http_status
    parts = {
        "got": error.got,
        "field": getattr(error, "field", None) or None,
        "rule": getattr(error, "rule", None) or None,
        "allowed": error.allowed,
        "next": error.next,
    }
    return status, {
        "type": f"urn:millrace:error:{_kind(error)}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.what,
        **{name: value for name, value in parts.items() if value is not None},
        "request_id": request_id,
    }


def _kind(error: MillraceError) -> str:
    words = re.findall(r"[A-Z][a-z]*", type(error).__name__.removesuffix("Error"))
    return "-".join(word.lower() for word in words)
