"""Traces as OTLP, the protocol of OpenTelemetry (https://opentelemetry.io/docs/specs/otlp/), in its binary form.

A request is a span of its own, one below it for each stage that it got to, and one below that for each call to another
service. Made one by one through the generated classes they cost 12 µs a request, which is most of what traces may
cost; so one span of each kind is made that way, as a stencil, and numbers are put into copies of it. That is safe as
ids and times have fixed widths, and as messages that are put behind each other are one message (the encoding of
Protocol Buffers says so).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from millrace.traces.context import Headers, TraceContext, ids_of, span_id_of
from millrace.traces.records import STAGES, Block

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

SERVER, INTERNAL, CLIENT = 2, 1, 3
_FAILED = 2

_SPANS = 2  # ScopeSpans.spans
_SCOPE_SPANS = 2  # ResourceSpans.scope_spans
_RESOURCE_SPANS = 1  # ExportTraceServiceRequest.resource_spans

#: What stands in a stencil where each span has its own: each of these bytes occurs in no other place.
_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\xf1" * 16, b"\xf2" * 8, b"\xf3" * 8
_START, _END = b"\xf4" * 8, b"\xf5" * 8

Bytes = NDArray[np.uint8]


def request_body(spans: Iterable[bytes], resource: Mapping[str, str]) -> bytes:
    """An `ExportTraceServiceRequest` of what `spans_of` gave; `resource` says who answered the requests."""
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

    scope = ScopeSpans(scope=InstrumentationScope(name="millrace")).SerializeToString()
    whose = ResourceSpans(resource=Resource(attributes=_attributes(resource))).SerializeToString()
    return _field(_RESOURCE_SPANS, whose + _field(_SCOPE_SPANS, b"".join([scope, *spans])))


def spans_of(block: Block) -> bytes:
    """The spans of the block's requests, each with its frame."""
    edges = (block.started_at + block.edges) * 1000  # nanoseconds, [7, n]
    trace_ids, span_ids = ids_of(block.traceparents)
    stage_ids = [_below(span_ids, stage) for stage in range(len(STAGES))]
    roots = _filled("predict", SERVER, (trace_ids, span_ids, None, edges[0], edges[-1]))
    stages = [
        _filled(name, INTERNAL, (trace_ids, own, span_ids, edges[stage], edges[stage + 1]))
        for stage, (name, own) in enumerate(zip(STAGES, stage_ids, strict=True))
    ]
    framed = [np.hstack([np.tile(_array(_frame(_SPANS, part.shape[1])), (len(block), 1)), part]) for part in stages]
    ends = np.cumsum([0, *(part.shape[1] for part in framed)]).tolist()
    size, below, root, above = ends[-1], np.hstack(framed).tobytes(), roots.shape[1], roots.tobytes()
    complete = np.all(block.reached, axis=0).tolist()
    columns = block.columns
    about = zip(*(columns[name] for name in _ABOUT), strict=True)
    own = zip(*(columns[name] for name in _OWN), strict=True)
    spans: list[bytes] = []
    for index, (common, alone) in enumerate(zip(about, own, strict=True)):
        rest = _about(*common) + _own(*alone)
        spans += (_frame(_SPANS, root + len(rest)), above[index * root : (index + 1) * root], rest)
        parts = below[index * size : (index + 1) * size]
        if complete[index]:
            spans.append(parts)
        else:
            spans += (
                parts[ends[stage] : ends[stage + 1]] for stage in np.flatnonzero(block.reached[:, index]).tolist()
            )
        for call in block.calls[index]:
            spans.append(_field(_SPANS, _call_span(block, index, call, trace_ids, stage_ids)))
    return b"".join(spans)


_ABOUT = ("version", "customer", "status", "rows", "batch_rows", "cached_rows")
_OWN = ("request_id", "traceparent", "parent", "headers")


@lru_cache(maxsize=4096)
def _about(version: str, customer: str, status: int, rows: int, batch_rows: int, cached_rows: int) -> bytes:
    """What many requests have in common, as a part of a span."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    attributes: dict[str, str | int] = {
        "http.request.method": "POST",
        "http.response.status_code": status,
        "millrace.version": version,
        "millrace.rows": rows,
        "millrace.batch_rows": batch_rows,
        "millrace.cached_rows": cached_rows,
    }
    if customer:
        attributes["millrace.customer"] = customer
    state = Status(code=_FAILED) if status >= 500 else None  # type: ignore[arg-type]
    return bytes(Span(attributes=_attributes(attributes), status=state).SerializeToString())


def _own(request_id: str, traceparent: bytes, parent: bytes | None, headers: Headers) -> bytes:
    """What each request has alone, and of no fixed width."""
    text = request_id.encode()
    found = _before_request_id(len(text)) + text
    if parent is not None:
        found += _before_parent() + bytes.fromhex(span_id_of(parent))
        if state := TraceContext(traceparent, parent, headers).state:
            from opentelemetry.proto.trace.v1.trace_pb2 import Span

            found += Span(trace_state=state).SerializeToString()
    return found


@lru_cache
def _before_request_id(size: int) -> bytes:
    """What stands before a request id of `size` bytes, which is the last of its attribute."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    span = Span(attributes=_attributes({"millrace.request_id": "x" * size}))
    whole = bytes(span.SerializeToString())
    return whole[: len(whole) - size]


@cache
def _before_parent() -> bytes:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    return bytes(Span(parent_span_id=_PARENT_ID).SerializeToString())[: -len(_PARENT_ID)]


def _call_span(block: Block, index: int, call: Any, trace_ids: Bytes, stage_ids: Sequence[Bytes]) -> bytes:
    """A call to another service, below the stage in which it began."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    began, ended = block.call_edges(index, call)
    stage = int(np.searchsorted(block.edges[:, index], began, side="right")) - 1
    stage = min(max(stage, 0), len(STAGES) - 1)
    started = int(block.started_at[index])
    span = Span(
        trace_id=trace_ids[index].tobytes(),
        span_id=bytes.fromhex(call.span_id),
        parent_span_id=stage_ids[stage][index].tobytes(),
        name=call.name,
        kind=CLIENT,  # type: ignore[arg-type]
        start_time_unix_nano=(started + began) * 1000,
        end_time_unix_nano=(started + ended) * 1000,
        attributes=_attributes(call.attributes),
    )
    return bytes(span.SerializeToString())


def _attributes(values: Mapping[str, str | int]) -> list[KeyValue]:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    return [
        KeyValue(key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value))
        for key, value in values.items()
    ]


def _below(span_ids: Bytes, stage: int) -> Bytes:
    """The ids of the stages' spans: as random as those of their requests, and never 0."""
    numbers = np.ascontiguousarray(span_ids).view(np.uint64)[:, 0]
    below = numbers ^ np.uint64((stage + 1) << 56 | 1 << 48)
    below[below == 0] = stage + 1
    return below.view(np.uint8).reshape(-1, 8)


@lru_cache
def _stencil(name: str, kind: int, has_parent: bool) -> tuple[bytes, tuple[int, ...]]:
    """A span, and where its ids and times stand in it."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    marks = (_TRACE_ID, _SPAN_ID, *((_PARENT_ID,) if has_parent else ()), _START, _END)
    stencil = Span(
        trace_id=_TRACE_ID,
        span_id=_SPAN_ID,
        parent_span_id=_PARENT_ID if has_parent else b"",
        name=name,
        kind=kind,  # type: ignore[arg-type]
        start_time_unix_nano=int.from_bytes(_START, "little"),
        end_time_unix_nano=int.from_bytes(_END, "little"),
        flags=1,
    ).SerializeToString()
    return stencil, tuple(stencil.index(mark) for mark in marks)


def _filled(name: str, kind: int, values: Sequence[NDArray[Any] | None]) -> Bytes:
    """A span of `kind` for each row of `values` (ids as [n, bytes], times as [n]), [n, bytes]."""
    there = [value if value.ndim == 2 else _fixed64(value) for value in values if value is not None]
    stencil, places = _stencil(name, kind, len(there) == len(values))
    spans = np.tile(_array(stencil), (len(there[0]), 1))
    for place, value in zip(places, there, strict=True):
        spans[:, place : place + value.shape[1]] = value
    return spans


def _array(text: bytes) -> Bytes:
    return np.frombuffer(text, np.uint8)


def _fixed64(times: NDArray[np.int64]) -> Bytes:
    return np.ascontiguousarray(times, "<u8").view(np.uint8).reshape(-1, 8)


def _field(number: int, payload: bytes) -> bytes:
    return _frame(number, len(payload)) + payload


@lru_cache(maxsize=4096)
def _frame(number: int, size: int) -> bytes:
    """What stands before a field of bytes: its number and kind, and how many there are, seven bits a byte."""
    frame = [number << 3 | 2]
    while size > 0x7F:
        frame.append(size & 0x7F | 0x80)
        size >>= 7
    frame.append(size)
    return bytes(frame)
