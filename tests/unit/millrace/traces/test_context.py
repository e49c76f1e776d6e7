"""W3C Trace Context: what is valid is continued, what is not begins a new trace, and nothing that is sent raises."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.traces.context import (
    TRACEPARENT,
    TRACESTATE,
    context_of,
    continued,
    new_traceparent,
    parse_traceparent,
    parse_tracestate,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01".encode()

trace_ids = st.from_regex("[0-9a-f]{32}", fullmatch=True).filter(lambda text: set(text) != {"0"})
span_ids = st.from_regex("[0-9a-f]{16}", fullmatch=True).filter(lambda text: set(text) != {"0"})
flags = st.integers(0, 255)


@given(trace_ids, span_ids, flags)
def test_a_valid_parent_is_continued(trace: str, span: str, flag: int) -> None:
    context = context_of([(TRACEPARENT, f"00-{trace}-{span}-{flag:02x}".encode())])
    assert (context.trace_id, context.parent_id) == (trace, span)
    assert context.span_id != span
    assert parse_traceparent(context.traceparent) == context.traceparent
    # Recorded whatever the caller does; that the id is random is handed on; no other flag is.
    assert int(context.traceparent[-2:], 16) == 1 | flag & 2
    below = context.child()
    assert (below.trace_id, below.parent_id) == (trace, context.span_id)
    assert context_of([(TRACEPARENT, below.headers()["traceparent"].encode())]).parent_id == below.span_id


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (VALID, VALID),
        (b" \t" + VALID + b" ", VALID),
        (b"cc" + VALID[2:], b"cc" + VALID[2:]),
        (b"cc" + VALID[2:] + b"-what-the-future-will-be-like", b"cc" + VALID[2:]),
        (b"cc" + VALID[2:] + b".what-the-future-will-be-like", None),
        (VALID + b"-what-the-future-will-be-like", None),
        (VALID + b"-", None),
        (b"ff" + VALID[2:], None),
        (VALID.upper(), None),
        (VALID[:-1], None),
        (VALID[1:], None),
        (VALID.replace(b"-", b"_"), None),
        (VALID.replace(b"-01", b"--1"), None),
        (VALID.replace(TRACE.encode(), b"0" * 32), None),
        (VALID.replace(SPAN.encode(), b"0" * 16), None),
        (VALID.replace(b"a", b"."), None),
        (VALID.replace(b"a", b"\xe4"), None),
        (VALID.replace(b"00-0", b"0-00"), None),
        (b"", None),
    ],
)
def test_what_is_valid(value: bytes, read: bytes | None) -> None:
    assert parse_traceparent(value) == read
    context = context_of([(TRACEPARENT, value), (TRACESTATE, b"a=1")])
    if read is None:
        assert context.parent is None
        assert context.trace_id != TRACE
        assert context.state == "", "the state of another trace is not handed on"
    else:
        assert (context.trace_id, context.parent_id, context.state) == (TRACE, SPAN, "a=1")
    assert context.traceparent.startswith(b"00-")


def test_two_parents_are_as_good_as_none() -> None:
    context = context_of([(TRACEPARENT, VALID), (TRACEPARENT, VALID)])
    assert context.parent is None


@given(st.lists(st.tuples(st.sampled_from([TRACEPARENT, TRACESTATE, b"host"]), st.binary(max_size=80))))
def test_whatever_is_sent_there_is_a_context(headers: list[tuple[bytes, bytes]]) -> None:
    context = context_of(headers)
    assert parse_traceparent(context.traceparent) == context.traceparent
    assert all(re.fullmatch(r"[\x20-\x7e\t]*", value) for value in context.headers().values())


@given(st.binary(max_size=80) | st.builds(lambda a, b: VALID[:a] + b + VALID[a + 1 :], st.integers(0, 54), st.binary()))
def test_what_is_read_of_any_bytes_is_a_version_that_we_know_how_to_write(value: bytes) -> None:
    read = parse_traceparent(value)
    if read is not None:
        assert re.fullmatch(b"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", read)
        assert parse_traceparent(continued(read)) is not None


def test_a_new_trace_has_an_id_of_its_own() -> None:
    found = [new_traceparent() for _ in range(2000)]
    assert len({value[3:35] for value in found}) == len({value[36:52] for value in found}) == 2000


LONG = "l=" + "x" * 200


@pytest.mark.parametrize(
    ("values", "state"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["a=1 , b=2"], "a=1 , b=2"),
        (["a=1,,b=2"], "a=1,,b=2"),
        (["tenant@vendor=1"], "tenant@vendor=1"),
        (["0a=1"], "0a=1"),
        ([""], ""),
        ([" , "], ""),
        (["a"], ""),
        (["A=1"], ""),
        (["a=1,b=ü"], ""),
        (["a=1=2"], ""),
        ([",".join(f"k{n}=v" for n in range(32))], ",".join(f"k{n}=v" for n in range(32))),
        ([",".join(f"k{n}=v" for n in range(33))], ""),
        (["a=1", LONG, LONG, LONG, "b=2"], "a=1,b=2"),
        ([",".join(f"k{n:02d}={'v' * 40}" for n in range(20))], ",".join(f"k{n:02d}={'v' * 40}" for n in range(11))),
    ],
)
def test_the_state_is_handed_on_unchanged_within_its_limits(values: list[str], state: str) -> None:
    assert parse_tracestate([value.encode("latin-1") for value in values]) == state


@given(st.lists(st.binary(max_size=700), max_size=3))
def test_a_state_is_never_longer_than_its_limit(values: list[bytes]) -> None:
    state = parse_tracestate(values)
    assert len(state) <= 512
    assert parse_tracestate([state.encode("latin-1")]) == state
