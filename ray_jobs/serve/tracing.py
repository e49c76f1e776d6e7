"""The traces of a replica: what the service calls when a request ends, and what a stage calls to ask somebody else.

What a request pays is here and in `Recorder.add`: a look at its headers, some attributes, and a tuple.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Protocol

from millrace.traces.context import TraceContext, continued, new_traceparent, parse_traceparent
from millrace.traces.export import Exporter
from millrace.traces.recorder import Recorder
from millrace.traces.records import NEVER, Call
from ray_jobs.serve.batching import Turn

_DAY_SECONDS = 86_400.0


class Traced(Protocol):
    """What a trace wants to know of a request. Times are of `time.perf_counter`; `resumed` is `NEVER` until it is.

    `parent` is the header `traceparent` that it came with, empty where there were two; `traceparent` names its own
    span.
    """

    started: float
    id: str
    customer: str
    headers: Sequence[tuple[bytes, bytes]]
    version: str
    turn: Turn | None
    resumed: float
    parent: bytes | None
    traceparent: bytes | None
    calls: list[Call] | None


class Traces:
    """Keeps the traces of one pipeline below its inference `folder`; sends them to `collector`, where there is one."""

    def __init__(self, folder: Path, pipeline: str, collector: str | None = None) -> None:
        resource = {
            "service.namespace": "millrace",
            "service.name": pipeline,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
        self.exporter = None if collector is None else Exporter(collector, resource)
        self.recorder = Recorder(folder, pipeline, self.exporter)

    def ended(self, asked: Traced, status: int, done: float) -> None:
        """Keep the trace of a request that was answered with `status` at `done`; never waits, never raises."""
        turn, calls = asked.turn, asked.calls or ()
        traceparent = traceparent_for(asked)
        # They hold a key; without a parent they are not needed and go at once.
        headers = () if asked.parent is None else asked.headers
        self.recorder.add(
            (
                traceparent,
                asked.parent,
                headers,
                asked.id,
                asked.version,
                asked.customer,
                status,
                0,
                0,
                0,
                asked.started,
                NEVER,
                NEVER,
                NEVER,
                NEVER,
                NEVER,
                done,
                calls,
            )
            if turn is None
            else (
                traceparent,
                asked.parent,
                headers,
                asked.id,
                asked.version,
                asked.customer,
                status,
                turn.rows,
                turn.batch_rows,
                turn.cached_rows,
                asked.started,
                turn.queued,
                turn.taken,
                turn.began,
                turn.ended,
                asked.resumed,
                done,
                calls,
            )
        )

    def keep(self, days: float) -> None:
        """Remove traces that are older, from now on."""
        self.recorder.keep_seconds = days * _DAY_SECONDS

    def close(self) -> None:
        """Write what is left; nothing is kept afterwards."""
        self.recorder.close()


def traceparent_for(asked: Traced) -> bytes:
    """What names the request's span, below its `parent` where that is valid; the first call decides it."""
    own = asked.traceparent
    if own is None:
        if asked.parent is not None:
            asked.parent = parse_traceparent(asked.parent)
        own = new_traceparent() if asked.parent is None else continued(asked.parent)
        asked.traceparent = own
    return own


@contextmanager
def calling(asked: Traced, name: str, **attributes: str) -> Iterator[TraceContext]:
    """A call to another service on behalf of `asked`: the block is a span of its own in the request's trace.

        with calling(asked, "feature store", table="flights") as span:
            client.get(url, headers=span.headers())

    An error's class becomes an attribute; the error itself goes on.
    """
    span = TraceContext(traceparent_for(asked), asked.parent, asked.headers).child()
    began = perf_counter()
    try:
        yield span
    except BaseException as error:
        attributes["error.type"] = type(error).__name__
        raise
    finally:
        if asked.calls is None:
            asked.calls = []
        asked.calls.append(Call(name, span.span_id, began, perf_counter(), attributes))
