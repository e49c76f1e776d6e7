"""Records of requests, of any kind that there may be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import hypothesis.strategies as st

from millrace.traces.context import TRACESTATE, continued, new_traceparent
from millrace.traces.records import NEVER, STAGES, Block, Call, Record

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def record(*moments: float, **change: Any) -> Record:
    """A request that began at 10 s and went through its stages at `moments`, after then; the last is its end."""
    stamps = [10.0 + moment for moment in (0.0, *moments)] if moments else [10.0 + n / 1000 for n in range(7)]
    values: dict[str, Any] = {
        "traceparent": new_traceparent(),
        "parent": None,
        "headers": (),
        "request_id": "r-1",
        "version": "3",
        "customer": "acme",
        "status": 200,
        "rows": 2,
        "batch_rows": 16,
        "cached_rows": 1,
        **dict(zip(Record._fields[10:17], stamps, strict=True)),
        "calls": (),
    }
    return Record(**values | change)


def continued_record(**change: Any) -> Record:
    """One that another service has asked, which sent a state too."""
    return record(traceparent=continued(PARENT), parent=PARENT, headers=[(TRACESTATE, b"vendor=1")], **change)


def block_of(found: Sequence[Record], epoch: float) -> Block:
    """The block of these records, as the recorder keeps them: cell behind cell."""
    return Block.of(list(chain.from_iterable(found)), epoch)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """A request that stopped at any stage, with any stamps that are in order."""
    took = draw(st.lists(st.floats(0, 5), min_size=7, max_size=7))
    moments, now = [], draw(st.floats(0, 1e6))
    for seconds in took:
        now += seconds
        moments.append(now)
    for missing in draw(st.sets(st.integers(1, len(STAGES) - 1))):
        moments[missing] = NEVER
    stamps = dict(zip(Record._fields[10:17], moments, strict=True))
    calls = [
        Call("store", "00f067aa0ba902b7", moments[0], moments[-1], {"table": "flights"})
        for _ in range(draw(st.integers(0, 2)))
    ]
    base = draw(st.sampled_from([record, continued_record]))()
    return base._replace(status=draw(st.sampled_from([200, 422, 429, 500, 503])), calls=calls, **stamps)
