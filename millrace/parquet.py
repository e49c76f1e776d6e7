"""Tables as Parquet: written the way we do, read only when they are of that kind.

A file of a few bytes may say that it holds billions of rows, or one long text that stands in millions of them. So its
metadata is checked first, against what our own writer makes: flat columns of plain types, packed with Snappy (which
never unpacks to more than 22 times its size) or not at all. Texts are read as a dictionary and an index, and the size
of the whole is known before it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pandas as pd

from millrace.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_ROWS = 100_000_000
_MAX_COLUMNS = 4096
_MAX_ROW_GROUPS = 10_000
_MAX_METADATA_BYTES = 16 * 2**20
_CODECS = ("UNCOMPRESSED", "SNAPPY")
_BATCH_ROWS = 65_536

# A table in memory: what fits on any machine, or this many times its file.
_SMALL_BYTES = 2**30
_MAX_EXPANSION = 50


def write(rows: pd.DataFrame) -> bytes:
    """`rows` as a Parquet file, without their index and without what pandas knows of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = BytesIO()
    pq.write_table(
        pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None), buffer, compression="snappy"
    )
    return buffer.getvalue()


def read(
    content: bytes, where: str, columns: Sequence[str] | None = None, *, max_rows: int = _MAX_ROWS
) -> pd.DataFrame:
    """The table in `content`; all columns, or only `columns`.

    Raises:
        ArtifactError: it is no Parquet file as `write` makes them, it has more than `max_rows` rows, or it lacks one
            of `columns`.
    """
    import pyarrow as pa

    try:
        file = _open(content)
        limit = max(_SMALL_BYTES, _MAX_EXPANSION * len(content))
        _check_metadata(file.metadata, len(content), max_rows, limit)
        _check_schema(file.schema_arrow, columns)
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
        rows: pd.DataFrame = _table(_open(content, texts), texts, columns, limit).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError, KeyError, NotImplementedError, MemoryError) as error:
        raise ArtifactError(
            f"{where} holds no table that can be used",
            got=f"{type(error).__name__}: {error}",
            allowed="Parquet, flat columns, Snappy or uncompressed",
            next="delete the prefix and run the step again",
        ) from error
    return rows


def _open(content: bytes, texts: Sequence[str] = ()) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(
        pa.BufferReader(content),
        read_dictionary=list(texts) or None,
        thrift_string_size_limit=_MAX_METADATA_BYTES,
        thrift_container_size_limit=_MAX_METADATA_BYTES // 16,
    )


def _check_metadata(metadata: Any, num_bytes: int, max_rows: int, limit: int) -> None:
    if not 0 <= metadata.num_rows <= max_rows:
        raise ValueError(f"{metadata.num_rows} rows, at most {max_rows} are allowed")
    if metadata.num_columns > _MAX_COLUMNS or metadata.num_rows * metadata.num_columns * 8 > limit:
        raise ValueError(f"{metadata.num_columns} columns of {metadata.num_rows} rows are too many")
    if metadata.num_row_groups > _MAX_ROW_GROUPS:
        raise ValueError(f"{metadata.num_row_groups} row groups, at most {_MAX_ROW_GROUPS} are allowed")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    if sum(group.num_rows for group in groups) != metadata.num_rows:
        raise ValueError("its row groups do not have as many rows as it says")
    for group in groups:
        # Arrow ends the process when it is asked for a column that the schema does not have.
        if group.num_columns != metadata.num_columns:
            raise ValueError(f"{group.num_columns} columns in a row group, {metadata.num_columns} in the schema")
        for index in range(group.num_columns):
            column, name = group.column(index), metadata.schema.column(index).path
            if column.compression not in _CODECS:
                raise ValueError(f"column {name} is packed with {column.compression}")
            if column.num_values != group.num_rows:
                raise ValueError(f"column {name} has {column.num_values} values for {group.num_rows} rows")
            if not 0 <= column.total_compressed_size <= num_bytes:
                raise ValueError(f"column {name} is larger than its file")


def _check_schema(schema: pa.Schema, columns: Sequence[str] | None) -> None:
    import pyarrow as pa

    if schema.metadata:
        raise ValueError("metadata, which our writer does not write")
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("a column appears twice")
    if absent := [name for name in columns or () if name not in schema.names]:
        raise ValueError(f"no column {', '.join(absent)}")
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if any(name.startswith(b"ARROW:extension") for name in field.metadata or {}) or not _is_plain(kind):
            raise ValueError(f"column {field.name!r} has the type {field.type}")


def _is_plain(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    checks = (types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string,
              types.is_temporal, types.is_decimal, types.is_null)  # fmt: skip
    return any(check(kind) for check in checks)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _table(file: Any, texts: Sequence[str], columns: Sequence[str] | None, limit: int) -> pa.Table:
    """The file's rows, their texts whole again; its size is counted before they are."""
    import pyarrow as pa

    wanted = None if columns is None else list(columns)
    batches = list(file.iter_batches(_BATCH_ROWS, columns=wanted))
    table = pa.Table.from_batches(batches) if batches else file.read(columns=wanted)
    num_bytes = sum(_unpacked_bytes(chunk) for column in table.columns for chunk in column.chunks)
    if num_bytes > limit:
        raise ValueError(f"it unpacks to {num_bytes} bytes, at most {limit} are allowed")
    for index, name in enumerate(table.column_names):
        if name in texts:
            table = table.set_column(index, name, table.column(index).cast(pa.large_string()))
    return table


def _unpacked_bytes(chunk: pa.Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(chunk.type) or not _is_text(chunk.type.value_type):
        return int(chunk.nbytes)
    lengths = pc.take(pc.binary_length(chunk.dictionary), chunk.indices)
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
