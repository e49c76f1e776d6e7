"""What is kept of a request: when its stages began. Each stage ends where the next begins, so together they are all of
it, whatever happened in it.

    preprocess   from its arrival: who asks, the body, the contract, the encoding
    queue        until a batch takes it
    batch_wait   until that batch is executed; of one that is executed again alone, what was tried before
    execute      the batch at work: joining, remembered answers, the model
    resume       until the replica comes back to it, behind the others of its batch
    postprocess  the answer and its log line, until it is sent

The hot path leaves the cells of a tuple; everything else is worked out later, for many requests at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STAGES = ("preprocess", "queue", "batch_wait", "execute", "resume", "postprocess")

#: A stage that a request did not get to; it then takes no time, and what came before lasts until what came after.
NEVER = float("inf")


class Call(NamedTuple):
    """A call to another service for a request. Times are of `time.perf_counter`."""

    name: str
    span_id: str
    began: float
    ended: float
    attributes: Mapping[str, str]


class Record(NamedTuple):
    """One request. A plain tuple in this order will do, and is twice as fast to make.

    The first three are what `TraceContext` is made of; headers are only needed where there is a parent.
    The stamps are of `time.perf_counter`, in order; `NEVER` stands for a moment that did not come.
    """

    traceparent: bytes
    parent: bytes | None
    headers: Sequence[tuple[bytes, bytes]]
    request_id: str
    version: str
    customer: str
    status: int
    rows: int
    batch_rows: int
    cached_rows: int
    started: float
    queued: float
    taken: float
    began: float
    ended: float
    resumed: float
    done: float
    calls: Sequence[Call]


#: The same, as the hot path makes it.
RecordTuple = tuple[
    bytes, bytes | None, Sequence[tuple[bytes, bytes]], str, str, str, int, int, int, int,
    float, float, float, float, float, float, float, Sequence[Call],
]  # fmt: skip

#: Cells of a record.
WIDTH = len(Record._fields)
_FIRST_STAMP, _LAST_STAMP = Record._fields.index("started"), Record._fields.index("done")


@dataclass(frozen=True, slots=True)
class Block:
    """The traces of n >= 1 requests, column by column; times in whole microseconds.

    `columns` are the fields of `Record`; `traceparents` are those put behind each other.

    `started_at` is since 1970 UTC, [n]; `edges` is since then, [7, n]: stage s lasts from edge s to edge s + 1.
    `reached` says which requests got to it, [6, n].
    """

    columns: Mapping[str, Sequence[Any]]
    traceparents: bytes
    started_at: NDArray[np.int64]
    edges: NDArray[np.int64]
    reached: NDArray[np.bool_]
    calls: Sequence[Sequence[Call]]
    started: Sequence[float]

    @classmethod
    def of(cls, cells: Sequence[Any], epoch: float) -> Block:
        """Of the cells of whole records, one record behind the other.

        `epoch` is the moment, in seconds since 1970 UTC, at which `time.perf_counter` was 0.
        """
        columns = {name: cells[position::WIDTH] for position, name in enumerate(Record._fields)}
        stamps = np.array([columns[name] for name in Record._fields[_FIRST_STAMP : _LAST_STAMP + 1]])
        reached = np.isfinite(stamps[:-1])
        if not reached.all():
            # What never came is as late as what came next.
            stamps = np.minimum.accumulate(stamps[::-1])[::-1]
        return cls(
            columns,
            b"".join(columns["traceparent"]),
            np.rint((stamps[0] + epoch) * 1e6).astype(np.int64),
            np.rint((stamps - stamps[0]) * 1e6).astype(np.int64),
            reached,
            columns["calls"],
            columns["started"],
        )

    def __len__(self) -> int:
        return len(self.started_at)

    @property
    def durations(self) -> NDArray[np.int64]:
        """How long the whole took, [n]; to the microsecond the sum of its stages."""
        last: NDArray[np.int64] = self.edges[-1]
        return last

    @property
    def stages(self) -> NDArray[np.int64]:
        """How long each of `STAGES` took, [6, n]."""
        return np.diff(self.edges, axis=0)

    def call_edges(self, index: int, call: Call) -> tuple[int, int]:
        """When a call of request `index` began and ended, since that request's start."""
        started = self.started[index]
        return round((call.began - started) * 1e6), round((call.ended - started) * 1e6)
