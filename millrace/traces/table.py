"""The log of traces: `traces` below a pipeline's inference folder, a log of `millrace.segments`.

A record is some requests, column by column; a table has one line a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.log_tables import read, read_lines, table_of
from millrace.log_writer import LogWriter
from millrace.segments import compact as _compact
from millrace.segments import remove_closed
from millrace.traces.context import LENGTH, SPAN_ID, TRACE_ID
from millrace.traces.records import STAGES, Block
from millrace.window import Window

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TRACES = "traces"

#: Stands where a request came without a parent; as long as one.
_NO_PARENT = b"-" * LENGTH
_IDS = ("trace_id", "span_id", "parent_span_id", "request_id")
_DERIVED = (*_IDS[:3], "pipeline")
_TEXTS = ("version", "customer")
_NUMBERS = ("status", "rows", "batch_rows", "cached_rows", "duration_us", *(f"{stage}_us" for stage in STAGES))


def header(pipeline: str) -> dict[str, Any]:
    """What a segment of traces holds."""
    return {"kind": TRACES, "pipeline": pipeline}


def writer(folder: Path, pipeline: str, rotate_seconds: float) -> LogWriter:
    """A writer of traces below the pipeline's inference `folder`; what it takes is `record_of` a block."""
    return LogWriter(folder / TRACES, header(pipeline), to_table, rotate_seconds)


def record_of(block: Block) -> dict[str, Any]:
    """The line that a block becomes; ids are told apart when it becomes a table."""
    columns = block.columns
    return {
        "traceparents": block.traceparents.decode(),
        "parents": b"".join([parent or _NO_PARENT for parent in columns["parent"]]).decode(),
        **{name: columns[name] for name in ("request_id", *_TEXTS, "status", "rows", "batch_rows", "cached_rows")},
        "started_at": block.started_at,
        "duration_us": block.durations,
        **{f"{stage}_us": took for stage, took in zip(STAGES, block.stages, strict=True)},
        "calls": [_calls(block, index) if calls else () for index, calls in enumerate(block.calls)],
    }


def _calls(block: Block, index: int) -> list[dict[str, Any]]:
    found = []
    for call in block.calls[index]:
        began, ended = block.call_edges(index, call)
        attributes = [{"name": name, "value": value} for name, value in call.attributes.items()]
        found.append(
            {
                "name": call.name,
                "span_id": call.span_id,
                "start_us": began,
                "duration_us": ended - began,
                "attributes": attributes,
            }
        )
    return found


def schema() -> pa.Schema:
    """The columns of the table. `calls` holds what was asked of other services; `start_us` is since `started_at`."""
    import pyarrow as pa

    return pa.schema(
        {
            **{name: pa.string() for name in _IDS},
            "pipeline": pa.string(),
            **{name: pa.string() for name in _TEXTS},
            "started_at": pa.timestamp("us", tz="UTC"),
            **{name: pa.int64() for name in _NUMBERS},
            "calls": _calls_type(),
        }
    )


def _calls_type() -> pa.DataType:
    import pyarrow as pa

    attribute = pa.struct({"name": pa.string(), "value": pa.string()})
    return pa.list_(
        pa.struct(
            {
                "name": pa.string(),
                "span_id": pa.string(),
                "start_us": pa.int64(),
                "duration_us": pa.int64(),
                "attributes": pa.list_(attribute),
            }
        )
    )


def to_table(header: Mapping[str, Any], lines: bytes) -> pa.Table:
    """The requests of a segment's whole record lines.

    Raises:
        ValueError: a line is no record, or the header is none of ours.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if header.get("kind") != TRACES or not isinstance(header.get("pipeline"), str):
        raise ValueError("its header is not one of traces")
    columns = schema()
    if not lines:
        return columns.empty_table()
    lists = [
        pa.field(field.name, pa.list_(pa.int64() if field.name == "started_at" else field.type))
        for field in columns
        if field.name not in _DERIVED
    ]
    try:
        texts = [pa.field(name, pa.string()) for name in ("traceparents", "parents")]
        records = read_lines(lines, pa.schema([*texts, *lists]))
        found: dict[str, Any] = {field.name: pc.list_flatten(records[field.name]) for field in lists}
        found["trace_id"], found["span_id"] = _ids(records["traceparents"])
        _, found["parent_span_id"] = _ids(records["parents"])
        found["pipeline"] = pa.repeat(header["pipeline"], len(found["started_at"]))
        return table_of(found, columns)
    except NotImplementedError as error:
        # Arrow finds values that it has no conversion for.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _ids(texts: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """The ids of traces and spans in names of spans that are put behind each other; None where there is none.

    Raises:
        ValueError: a text is no row of names.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    text = "".join(texts.fill_null("").to_pylist()).encode()
    if len(text) % LENGTH:
        raise ValueError(f"{len(text)} characters are no row of names of spans")
    names = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(LENGTH), len(text) // LENGTH, [None, pa.py_buffer(text)]
    ).cast(pa.binary())
    named = pc.if_else(pc.equal(names, _NO_PARENT), None, names)
    trace, span = (pc.binary_slice(named, place.start, place.stop).cast(pa.string()) for place in (TRACE_ID, SPAN_ID))
    return trace, span


def compact(folder: Path) -> list[Path]:
    """Close the segments of traces that killed writers left open below the inference `folder`; the new files.

    Raises:
        DataError: a segment is damaged; the others are closed all the same.
    """
    return _compact(folder / TRACES, to_table)


def expire(folder: Path, before: float) -> list[Path]:
    """Remove the traces below the inference `folder` that are older than a moment, in seconds since 1970, segment by
    segment; the files. Of a segment the newest trace counts."""
    return remove_closed(folder / TRACES, before)


def read_traces(folder: Path, window: Window | None = None) -> pd.DataFrame:
    """The traces below the inference `folder`, oldest first; with a `window`, those that started in it.

    Raises:
        DataError: a segment is damaged.
    """
    found = read(folder / TRACES, schema(), window, to_table=to_table, time="started_at")
    return found.sort_values("started_at", kind="stable", ignore_index=True)
