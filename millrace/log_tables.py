"""From the inference log's segments to Arrow tables, with the types their headers name whatever the rows hold."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from millrace.errors import DataError, shorten, shown
from millrace.segments import CLOSED, OPEN, ToTable, damaged_segment, split_lines
from millrace.window import Window

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ANSWERS = "answers"
OUTCOMES = "outcomes"
FAILURES = "failures"
SHADOW = "shadow"
PROBABILITY = "probability_"

#: Columns of the log itself; no feature may have one of these names.
FIXED = ("request_id", "row", "row_id", "event_time", "version", "customer", "answered_at", "seconds", "prediction")

Header = Mapping[str, Any]

_MIN_BLOCK_BYTES = 1 << 20


def schema_of(header: Header) -> pa.Schema:
    """The columns of the table that a segment with this header becomes."""
    import pyarrow as pa

    time = pa.timestamp("us", tz="UTC")
    if header["kind"] not in (ANSWERS, OUTCOMES, FAILURES, SHADOW):
        raise ValueError(f"a segment of an unknown kind: {shorten(shown(header['kind']))}")
    if header["kind"] == OUTCOMES:
        return pa.schema(
            {"request_id": pa.string(), "row": pa.int64(), "label": _type(header["label"]), "known_at": time}
        )
    if header["kind"] == FAILURES:
        return pa.schema(
            {
                "request_id": pa.string(),
                "version": pa.string(),
                "failed_at": time,
                "status": pa.int64(),
                "error": pa.string(),
            }
        )
    if header["kind"] == SHADOW:
        return pa.schema(
            {
                "request_id": pa.string(),
                "row": pa.int64(),
                "version": pa.string(),
                "primary": pa.string(),
                "answered_at": time,
                "prediction": _type(header["prediction"]),
                "shadow": _type(header["prediction"]),
                "error": pa.string(),
                "dropped": pa.int64(),
            }
        )
    fields = {
        "request_id": pa.string(),
        "row": pa.int64(),
        "row_id": pa.string(),
        "event_time": time,
        "version": pa.string(),
        "customer": pa.string(),
        "answered_at": time,
        "seconds": pa.float64(),
        **{name: _type(kind) for name, kind in header["features"].items()},
        "prediction": _type(header["prediction"]),
        **{f"{PROBABILITY}{name}": pa.float64() for name in header["classes"]},
    }
    return pa.schema(fields)


def to_table(header: Header, lines: bytes) -> pa.Table:
    """The rows of a segment's whole record lines.

    Raises:
        ValueError: a line is no record, or the header is none of ours.
    """
    try:
        schema = schema_of(header)
        if not lines:
            return schema.empty_table()
        records = read_lines(lines, _records_schema(header))
        if header["kind"] == FAILURES:
            return table_of({name: records[name] for name in schema.names}, schema)
        if header["kind"] == SHADOW:
            return _shadow_rows(records, schema)
        return _outcome_rows(records, schema) if header["kind"] == OUTCOMES else _answer_rows(records, schema)
    except (LookupError, TypeError, AttributeError, NotImplementedError) as error:
        # The header names other things than we wrote, or Arrow finds values that it has no conversion for.
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read(
    folder: Path,
    schema: pa.Schema,
    window: Window | None,
    *,
    to_table: ToTable = to_table,
    time: str = "event_time",
) -> pd.DataFrame:
    """All rows of the log in `folder`, open segments of living writers too; with a `window`, whose `time` lies in it.

    Raises:
        DataError: a segment is damaged, or holds a column in a type that `schema` cannot take.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    closed, opened = _segments(folder, to_table)
    condition = None
    if window is not None:
        start, end = (pa.scalar(moment, schema.field(time).type) for moment in (window.start, window.end))
        condition = (ds.field(time) >= start) & (ds.field(time) < end)
    try:
        tables = [ds.dataset(table).to_table(filter=condition) for table in (_fit(table, schema) for table in opened)]
        if closed:
            files = ds.dataset([str(path) for path in closed], schema=schema, format=_checked_parquet())
            tables.append(files.to_table(filter=condition))
        whole = pa.concat_tables([schema.empty_table(), *tables])
        rows: pd.DataFrame = whole.to_pandas(coerce_temporal_nanoseconds=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        if not all(path.exists() for path in closed):
            # Removed since the listing, because of its age.
            return read(folder, schema, window, to_table=to_table, time=time)
        _refuse_damaged(closed)
        raise DataError(
            f"the inference log in {folder} does not fit the spec",
            got=str(error),
            allowed="features that keep their kind",
            next="read a window after the feature changed its kind, or move older segments out of the folder",
        ) from error
    return rows


def _checked_parquet() -> Any:
    """The format of closed segments, read with the checksums of their pages."""
    import pyarrow.dataset as ds

    return ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )


def _refuse_damaged(closed: list[Path]) -> None:
    """Name the first closed segment that cannot be read by itself; without one, the fault is another."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in closed:
        try:
            pq.read_table(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged_segment(path, error) from error


def _segments(folder: Path, to_table: ToTable) -> tuple[list[Path], list[pa.Table]]:
    """The Parquet files and the tables of the segments that are still lines, each segment once."""
    closed = {path.stem: path for path in sorted(folder.glob(f"*{CLOSED}"))}
    opened: list[pa.Table] = []
    for path in sorted(folder.glob(f"*{OPEN}")):
        if path.stem in closed:
            continue
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # It was closed since the listing: its Parquet file was there before its lines went.
            closed[path.stem] = path.with_suffix(CLOSED)
            continue
        header, lines = split_lines(path, content)
        try:
            if header.get("kind") != folder.name:
                raise ValueError(f"its header is not one of {folder.name}")
            opened.append(to_table(header, lines))
        except ValueError as error:
            raise damaged_segment(path, error) from error
    return list(closed.values()), opened


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with the columns of `schema`; those it lacks are empty."""
    import pyarrow as pa

    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _type(kind: str) -> pa.DataType:
    import pyarrow as pa

    return pa.float64() if kind == "number" else pa.string()


def _records_schema(header: Header) -> pa.Schema:
    import pyarrow as pa

    if header["kind"] == OUTCOMES:
        return pa.schema(
            {
                "request_id": pa.list_(pa.string()),
                "row": pa.list_(pa.int64()),
                "label": pa.list_(_type(header["label"])),
                "known_at": pa.list_(pa.int64()),
            }
        )
    if header["kind"] == FAILURES:
        return pa.schema([(f.name, pa.int64() if f.name == "failed_at" else f.type) for f in schema_of(header)])
    if header["kind"] == SHADOW:
        lists = dict.fromkeys(("prediction", "shadow"), pa.list_(_type(header["prediction"])))
        types = {f.name: f.type for f in schema_of(header) if f.name != "row"}
        return pa.schema(types | {"answered_at": pa.int64()} | lists)
    return pa.schema(
        {
            "request_id": pa.string(),
            "version": pa.string(),
            "customer": pa.string(),
            "answered_at": pa.int64(),
            "seconds": pa.float64(),
            "row_id": pa.list_(pa.string()),
            "event_time": pa.list_(pa.int64()),
            "features": pa.struct({name: pa.list_(_type(kind)) for name, kind in header["features"].items()}),
            "prediction": pa.list_(_type(header["prediction"])),
            "probabilities": pa.struct({name: pa.list_(pa.float64()) for name in header["classes"]}),
        }
    )


def read_lines(lines: bytes, schema: pa.Schema) -> pa.Table:
    """Lines of JSON as a table of one chunk.

    Raises:
        ValueError: a line is none, or holds other fields than `schema` (`pyarrow.ArrowInvalid`).
    """
    # Arrow's reader works outside the interpreter lock, so closing a segment does not stall the requests beside it.
    import pyarrow.json as pj

    longest = max(map(len, lines.splitlines()))
    table = pj.read_json(
        BytesIO(lines),
        read_options=pj.ReadOptions(use_threads=False, block_size=max(_MIN_BLOCK_BYTES, longest + 2)),
        parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    )
    return table.combine_chunks()


def _answer_rows(records: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow.compute as pc

    counts = pc.list_value_length(records["event_time"]).fill_null(0).to_numpy()
    parents = np.repeat(np.arange(len(records)), counts)
    features, probabilities = records["features"].combine_chunks(), records["probabilities"].combine_chunks()
    columns: dict[str, Any] = {
        name: records[name].take(parents) for name in ("request_id", "version", "customer", "answered_at", "seconds")
    }
    columns |= {name: pc.list_flatten(records[name]) for name in ("row_id", "event_time", "prediction")}
    columns |= {field.name: pc.list_flatten(features.field(field.name)) for field in features.type}
    columns |= {f"{PROBABILITY}{f.name}": pc.list_flatten(probabilities.field(f.name)) for f in probabilities.type}
    columns["row"] = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
    return table_of(columns, schema)


def _shadow_rows(records: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow.compute as pc

    counts = pc.list_value_length(records["prediction"]).fill_null(0).to_numpy()
    parents = np.repeat(np.arange(len(records)), counts)
    names = ("request_id", "version", "primary", "answered_at", "error")
    columns: dict[str, Any] = {name: records[name].take(parents) for name in names}
    columns |= {name: pc.list_flatten(records[name]) for name in ("prediction", "shadow")}
    columns["row"] = row = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
    # Of a request, so it is told once.
    columns["dropped"] = np.where(row == 0, records["dropped"].to_numpy()[parents], 0)
    return table_of(columns, schema)


def _outcome_rows(records: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow.compute as pc

    return table_of({name: pc.list_flatten(records[name]) for name in schema.names}, schema)


def table_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Columns of equal length as `schema` orders and types them."""
    import pyarrow as pa

    arrays = []
    for field in schema:
        column = columns[field.name]
        array = pa.array(column) if isinstance(column, np.ndarray) else column
        arrays.append(array.cast(field.type))
    return pa.table(arrays, schema=schema)
