"""What is put together by hand is what the official classes read, and would have written."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from millrace.traces.otlp import request_body, spans_of
from millrace.traces.records import STAGES, Block, Call, Record
from tests.unit.millrace.traces.material import PARENT, block_of, continued_record, record, records

EPOCH = 1_700_000_000.0


def decoded(*blocks: Block) -> list[Any]:
    """The spans of a request that the official classes have read, and write again as it was."""
    body = request_body(map(spans_of, blocks), {"service.name": "tiny"})
    request = ExportTraceServiceRequest.FromString(body)
    (resource,) = request.resource_spans
    assert [(item.key, item.value.string_value) for item in resource.resource.attributes] == [("service.name", "tiny")]
    (scope,) = resource.scope_spans
    assert scope.scope.name == "millrace"
    request.DiscardUnknownFields()
    assert len(request.SerializeToString()) == len(body)
    return list(scope.spans)


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_request_is_a_span_with_one_below_it_for_each_stage() -> None:
    root, *stages = decoded(block_of([continued_record()], EPOCH))
    assert (root.name, root.kind) == ("predict", Span.SPAN_KIND_SERVER)
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (PARENT[3:35].decode(), PARENT[36:52].decode())
    assert root.trace_state == "vendor=1"
    assert root.start_time_unix_nano == (1_700_000_000 + 10) * 10**9
    assert root.end_time_unix_nano - root.start_time_unix_nano == 6_000_000
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "millrace.version": "3",
        "millrace.customer": "acme",
        "millrace.rows": 2,
        "millrace.batch_rows": 16,
        "millrace.cached_rows": 1,
        "millrace.request_id": "r-1",
    }
    assert [span.name for span in stages] == list(STAGES)
    assert {span.parent_span_id for span in stages} == {root.span_id}
    assert {span.kind for span in stages} == {Span.SPAN_KIND_INTERNAL}


def test_a_failure_is_an_error_and_a_refusal_is_none() -> None:
    failed, refused = (decoded(block_of([record(status=status)], EPOCH))[0] for status in (500, 422))
    assert (failed.status.code, refused.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)


def test_a_call_is_below_the_stage_in_which_it_began() -> None:
    call = Call("feature store", "00f067aa0ba902b7", 10.0032, 10.0035, {"table": "flights"})
    spans = decoded(block_of([record(), record(calls=[call])], EPOCH))
    (found,) = [span for span in spans if span.kind == Span.SPAN_KIND_CLIENT]
    (parent,) = [span for span in spans if span.span_id == found.parent_span_id]
    assert (parent.name, parent.trace_id) == ("execute", found.trace_id)
    assert (found.name, found.span_id.hex(), attributes(found)) == (
        "feature store",
        "00f067aa0ba902b7",
        {"table": "flights"},
    )
    assert found.end_time_unix_nano - found.start_time_unix_nano == 300_000


@given(st.lists(st.lists(records(), min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_requests_are_read_as_they_were(found: list[list[Record]]) -> None:
    blocks = [block_of(part, EPOCH) for part in found]
    spans = decoded(*blocks)
    roots = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    one_by_one = [
        (block, index, each) for block, part in zip(blocks, found, strict=True) for index, each in enumerate(part)
    ]
    for root, (block, index, each) in zip(roots, one_by_one, strict=True):
        assert root.trace_id.hex() == each.traceparent[3:35].decode()
        assert root.span_id.hex() == each.traceparent[36:52].decode()
        assert root.parent_span_id.hex() == ("" if each.parent is None else each.parent[36:52].decode())
        assert attributes(root)["http.response.status_code"] == each.status
        stages = [
            span for span in spans if span.parent_span_id == root.span_id and span.kind == Span.SPAN_KIND_INTERNAL
        ]
        reached = [name for name, there in zip(STAGES, block.reached[:, index], strict=True) if there]
        assert [span.name for span in stages] == reached
        # Without a gap, from the first moment to the last.
        edges = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in stages]
        assert (edges[0][0], edges[-1][1]) == (root.start_time_unix_nano, root.end_time_unix_nano)
        assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(edges))
    assert len({span.span_id for span in spans if span.kind != Span.SPAN_KIND_CLIENT}) == sum(
        span.kind != Span.SPAN_KIND_CLIENT for span in spans
    )
