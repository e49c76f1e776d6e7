"""The bytes of a table file as a frame whose cells have one stable string form."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from millrace.errors import SourceError
from millrace.storage import digest_bytes, digest_file, digest_json

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".pq")
#: Cells of a CSV that mean "missing". "None" is not among them: it is a real category more often than not.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "null", "NULL")
# What file systems call a content's tag or age; a size alone proves nothing.
_VERSION_FACTS = ("ETag", "etag", "md5", "md5Hash", "generation", "LastModified", "last_modified", "mtime", "created")
_EXACT_FLOAT = 2**53


def read_frame(raw: pa.Table, as_text: bool) -> pd.DataFrame:
    """`raw` with numbers, times and text told apart; `as_text` says that its cells are text yet to be read."""
    return pd.DataFrame({name: _cells(raw[name], as_text) for name in raw.column_names})


def shown(url: str) -> str:
    """`url` without what may be secret: user, password and query."""
    parts = urlsplit(url)
    return (
        parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl() if parts.scheme else url
    )


def _file_system(url: str) -> tuple[Any, str]:
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise SourceError(
            f"{shown(url)} cannot be opened",
            got=str(error),
            allowed="a path, or a URL such as https://… or s3://…",
            next="correct the URL, or install the package that its scheme needs",
        ) from error
    return found


def _content(url: str) -> bytes:
    files, path = _file_system(url)
    try:
        with files.open(path, "rb", compression="gzip" if urlsplit(url).path.endswith(".gz") else None) as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise SourceError(f"{shown(url)} does not exist", next="correct the path or URL of the table") from None
    except Exception as error:  # each file system raises its own
        raise SourceError(
            f"{shown(url)} cannot be read",
            got=f"{type(error).__name__}: {error}",
            next="check the address and its rights",
        ) from error


def content_stamp(url: str) -> str:
    """Digest of the content, or of its tag and age where a remote store tells them."""
    files, path = _file_system(url)
    try:
        if isinstance(files, LocalFileSystem):
            return digest_file(Path(path))
        info = files.info(path)
    except OSError:
        return digest_bytes(_content(url))  # says what is wrong
    except Exception:  # noqa: BLE001 - a server may refuse to describe what it serves
        info = {}
    facts = {name: info[name] for name in _VERSION_FACTS if info.get(name)}
    return digest_json([facts, info.get("size")]) if facts else digest_bytes(_content(url))


def file_facts(url: str) -> dict[str, str]:
    """What the store tells of a file without opening it: size, and tag or age.

    Raises:
        SourceError: it is not there, or the store does not answer.
    """
    files, path = _file_system(url)
    try:
        info = files.info(path)
    except Exception as error:
        raise _unreachable(url, error) from error
    return {name: str(info[name]) for name in ("size", *_VERSION_FACTS) if info.get(name)}


def list_files(pattern: str) -> list[str]:
    """URLs of the files that `pattern` matches, `*` being anything in one path segment; sorted, as known now.

    Raises:
        SourceError: the store does not answer.
    """
    files, path = _file_system(pattern)
    try:
        files.invalidate_cache()
        found = sorted(str(each) for each in files.glob(path))
    except Exception as error:
        raise _unreachable(pattern, error) from error
    scheme = pattern.partition("://")[0] + "://" if "://" in pattern else ""
    return [f"{scheme}{each}" for each in found]


def _unreachable(url: str, error: Exception) -> SourceError:
    return SourceError(
        f"{shown(url)} cannot be looked at",
        got=f"{type(error).__name__}: {error}",
        next="check the path, the credentials in the environment (AWS_…), and whether the store answers",
    )


def read_arrow(url: str) -> tuple[pa.Table, bool]:
    """The table as it is stored, and whether its cells are text yet to be read (CSV) or typed (Parquet)."""
    path = urlsplit(url).path.lower() if "://" in url else url.lower()
    suffix = next((suffix for suffix in SUFFIXES if path.endswith(suffix)), None)
    if suffix is None:
        raise SourceError(
            f"{shown(url)} is of no known format",
            got=Path(path).name,
            allowed=", ".join(SUFFIXES),
            next="rename or convert it",
        )
    content = _content(url)
    if not content.strip():
        raise SourceError(f"{shown(url)} is empty", next="give a table with a header and rows")
    try:
        is_parquet = suffix in (".parquet", ".pq")
        table = pq.ParquetFile(io.BytesIO(content)).read() if is_parquet else _read_csv(content, suffix, url)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{shown(url)} is no readable {suffix} file",
            got=str(error),
            allowed="Parquet, or UTF-8 text with as many cells in each row as in the header",
            next="write it again; text in another encoding: iconv -f latin1 -t utf-8",
        ) from error
    _check_header(table.column_names, url)
    if not table.num_rows:
        raise SourceError(f"{shown(url)} has a header and no rows", next="give a table with rows")
    return table, not is_parquet


def _read_csv(content: bytes, suffix: str, url: str) -> pa.Table:
    first_line = content.split(b"\n", 1)[0].decode("utf-8-sig")
    delimiter = "\t" if suffix.startswith(".tsv") else max(",;\t|", key=first_line.count)
    header = next(csv.reader(io.StringIO(content[: 1 << 20].decode("utf-8-sig", "replace")), delimiter=delimiter))
    # A table written with its index has a first column without a name.
    names = [name or f"unnamed_{position}" for position, name in enumerate(header)]
    _check_header(names, url)
    return pacsv.read_csv(
        io.BytesIO(content),
        read_options=pacsv.ReadOptions(column_names=names, skip_rows_after_names=1),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types={name: pa.string() for name in names}, null_values=list(MISSING), strings_can_be_null=True
        ),
    )


def _check_header(names: Sequence[str], url: str) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise SourceError(
            f"{shown(url)}: column names appear twice",
            got=repeated,
            allowed="one column per name",
            next="rename the repeats",
        )


def _cells(column: pa.ChunkedArray, as_text: bool) -> pd.Series:
    """One column with stable string forms."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        # Some writers mark no text as such; what is none stays as it is.
        with contextlib.suppress(pa.ArrowInvalid):
            column = column.cast(pa.string())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string())  # "true" and "false"
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_integer(column.type) and not pa.types.is_uint64(column.type):
        return pd.Series(column.to_pandas(types_mapper=lambda _: pd.Int64Dtype()))
    cells: pd.Series = column.to_pandas(date_as_object=False)
    if as_text:
        cells = _numbers(column, cells)
    return _whole(cells) if cells.dtype.kind == "f" else cells


def _numbers(column: pa.ChunkedArray, cells: pd.Series) -> pd.Series:
    """Text as numbers when all of it is; codes with a leading zero stay text."""
    if pc.any(pc.match_substring_regex(column, r"^\s*[+-]?0\d")).as_py():
        return cells
    lower = pc.utf8_lower(column)
    if column.null_count < len(column) and set(pc.unique(lower.drop_null()).to_pylist()) <= {"true", "false"}:
        return pd.Series(lower.to_pandas())
    numbers = pd.to_numeric(cells, errors="coerce")
    if numbers.isna().all() or (numbers.isna() & cells.notna()).any() or numbers.dtype.kind not in "if":
        return cells
    if numbers.dtype.kind == "i":
        return numbers.astype("Int64")
    # Longer runs of digits than a float can hold are names, not numbers.
    return cells if (numbers.abs() > _EXACT_FLOAT).any() and not _has_point(column) else numbers


def _has_point(column: pa.ChunkedArray) -> bool:
    """Whether a cell is written with a decimal point or an exponent."""
    return bool(pc.any(pc.match_substring_regex(column, r"[.eE]")).as_py())


def _whole(numbers: pd.Series) -> pd.Series:
    """Whole numbers as integers: one missing cell must not turn the class 1 into 1.0."""
    numbers = numbers.astype("float64")
    known = numbers.dropna()
    whole = bool(len(known)) and bool(((known % 1 == 0) & (known.abs() <= _EXACT_FLOAT)).all())
    return numbers.astype("Int64") if whole else numbers


def row_names(raw: pa.Table) -> pd.Series:
    """A name per row that survives appending, sorting and late labels; equal rows are numbered."""
    cells = pd.DataFrame({name: _text(raw[name]) for name in raw.column_names}, index=range(raw.num_rows))
    digests = pd.util.hash_pandas_object(cells, index=False)
    repeat = digests.groupby(digests).cumcount()
    names = digests.map("{:016x}".format)
    return names.where(repeat == 0, names + "-" + repeat.astype(str))


def _text(column: pa.ChunkedArray) -> pd.Series:
    castable = not (pa.types.is_nested(column.type) or pa.types.is_binary(column.type))
    cells = column.cast(pa.string()).to_pandas() if castable else column.to_pandas().map(str)
    return pd.Series(cells)
