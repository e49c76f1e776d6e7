"""Whatever file is given to `millrace new`: a pipeline that keeps its own contract, or a message, and no folder."""

from __future__ import annotations

import csv
import gzip
import io
import tempfile
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from millrace.errors import ConfigError, DataError
from millrace.pipeline import load_pipeline
from millrace.scaffold.table_file import SUFFIXES, read_arrow, read_frame
from millrace.scaffold.write import create_pipeline
from tests.unit.fuzz.material import examples, mangled, texts

_ROWS = 60


def lines(rows: int = _ROWS) -> list[list[str]]:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    table = [["at", "size", "colour", "y"]]
    for n in range(rows):
        table.append(
            [(start + timedelta(days=n)).isoformat(), str(n * 7 % 13), ["red", "blue"][n % 2], str(n * 5 % 3 % 2)]
        )
    return table


def text_of(table: list[list[str]], **options: Any) -> bytes:
    out = io.StringIO()
    csv.writer(out, **options).writerows(table)
    return out.getvalue().encode("utf-8", "surrogatepass")


def make(root: Path, name: str, content: bytes, **options: Any) -> bool:
    """Whether a pipeline was made of a file of these bytes; it is whole, or there is nothing."""
    (root / name).write_bytes(content)
    roles = {"time": "at", "label": "y"} | options
    folder = root / "pipelines" / "made"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="hypothesis")
        try:
            made = create_pipeline("made", str(root / name), pipelines_dir=root / "pipelines", **roles)
        except (ConfigError, DataError) as error:
            assert error.next or error.allowed, error
            assert len(str(error)) < 6000
            assert not folder.exists()
            assert not list((root / "pipelines").glob("*")) if (root / "pipelines").exists() else True
            return False
    assert load_pipeline("made", root / "pipelines").spec == made.spec
    assert list((root / "pipelines").iterdir()) == [folder]
    return True


@given(content=st.binary(max_size=300), suffix=st.sampled_from(SUFFIXES))
@example(content=b"\xff\xfea\x00", suffix=".csv")
@example(content=b'at,y\n"', suffix=".csv")
@example(content=b"\x00" * 50, suffix=".csv")
@example(content=b"PAR1" + b"\x00" * 40 + b"PAR1", suffix=".parquet")
@example(content=b",,,\n,,,\n", suffix=".csv")
@example(content=b"at\n" + b"2024-01-01\n" * 50, suffix=".csv")
@example(content=gzip.compress(b"at,y\n")[:-4], suffix=".csv.gz")
def test_any_bytes(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        assert not make(Path(root), f"table{suffix}", content)


@given(data=st.data())
@examples(3)
def test_a_sound_table_with_bytes_wrong(data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".csv", ".tsv", ".csv.gz", ".parquet"]))
    plain = text_of(lines(), delimiter="\t" if suffix == ".tsv" else ",")
    content = {".csv.gz": gzip.compress(plain), ".parquet": parquet(_frame())}.get(suffix, plain)
    with tempfile.TemporaryDirectory() as root:
        make(Path(root), f"table{suffix}", data.draw(mangled(content)))


@given(data=st.data())
@examples(3)
def test_a_sound_table_with_cells_wrong(data: st.DataObject) -> None:
    """Any text in any cell or header, in any dialect and encoding."""
    table = lines(data.draw(st.sampled_from([1, 29, 40, _ROWS])))
    cell = st.one_of(
        texts,
        st.floats().map(str),
        st.integers().map(str),
        st.sampled_from(
            [
                "",
                "NA",
                "nan",
                "1e400",
                "-1e308",
                "01",
                "true",
                "2024-01-01",
                "9" * 400,
                "0x1",
                "1,5",
                "$name",
                "a: b #c",
            ]
        ),
    )
    where = data.draw(st.sampled_from(["cells", "column", "header", "row"]))
    position = data.draw(st.integers(0, 3))
    if where == "header":
        table[0][position] = data.draw(cell)
    elif where == "row":
        table[data.draw(st.integers(1, len(table) - 1))] = data.draw(st.lists(cell, max_size=6))
    elif where == "column":
        few = data.draw(st.lists(cell, min_size=1, max_size=4))
        for n, row in enumerate(table[1:]):
            row[position] = few[n % len(few)]
    else:
        for _ in range(data.draw(st.integers(1, 5))):
            table[data.draw(st.integers(1, len(table) - 1))][position] = data.draw(cell)
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    content = text_of(
        table, quoting=quoting, lineterminator=end, delimiter=data.draw(st.sampled_from([",", ";", "|", "\t"]))
    )
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    content = content.decode("utf-8", "replace").encode(encoding, "replace")
    roles = {"label": data.draw(st.sampled_from(["y", "size", "colour"]))}
    if data.draw(st.booleans()):
        roles["id"] = data.draw(st.sampled_from(["size", "colour", "no such"]))
    assume(roles.get("id") != roles["label"])
    with tempfile.TemporaryDirectory() as root:
        make(Path(root), "table.csv", content, **roles)


def _frame() -> pd.DataFrame:
    head, *rows = lines()
    frame = pd.DataFrame(rows, columns=head)
    return frame.assign(at=pd.to_datetime(frame["at"]), size=frame["size"].astype(int), y=frame["y"].astype(int))


def parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


_columns: list[Any] = [
    [[1, 2]] * _ROWS,
    [{"a": 1}] * _ROWS,
    [b"\xff\x00"] * _ROWS,
    [None] * _ROWS,
    [2**63 - 1] * _ROWS,
    np.array([2**64 - 1, 1] * (_ROWS // 2), np.uint64),
    [np.inf, -np.inf, np.nan] * (_ROWS // 3),
    [1e308, -1e308] * (_ROWS // 2),
    [5e-324, 0.0] * (_ROWS // 2),
    pd.to_timedelta(range(_ROWS), unit="D"),
    pd.Categorical(["a", "b"] * (_ROWS // 2)),
    pd.date_range("2024-01-01", periods=_ROWS, tz="Asia/Tokyo"),
    pd.Series([True, None] * (_ROWS // 2), dtype="boolean"),
    [__import__("decimal").Decimal("1.10"), None] * (_ROWS // 2),
    [datetime(2024, 1, 1).date()] * _ROWS,
    [datetime(2024, 1, 1, 5).time()] * _ROWS,
    np.float16([1, 2] * (_ROWS // 2)),
    ["x" * 10_000, "y"] * (_ROWS // 2),
    [f"v{n}" for n in range(_ROWS)],
]


@pytest.mark.parametrize("role", ["size", "at", "y"])
@pytest.mark.parametrize("number", range(len(_columns)))
def test_any_type_of_column(number: int, role: str, tmp_path: Path) -> None:
    frame = _frame()
    frame[role] = pd.Series(_columns[number])
    make(tmp_path, "table.parquet", parquet(frame))


def test_many_different_values_are_read_in_time(tmp_path: Path) -> None:
    rows = 100_000
    start = np.datetime64("2020-01-01T00:00:00")
    frame = pd.DataFrame(
        {
            "at": start + np.arange(rows).astype("timedelta64[m]"),
            "text": [f"value number {n}" for n in range(rows)],
            "number": np.arange(rows) * 1.5,
            "y": np.arange(rows) % 2,
        }
    )
    started = time.perf_counter()
    assert make(tmp_path, "table.parquet", parquet(frame))
    assert time.perf_counter() - started < 30


@given(content=st.binary(max_size=400))
@examples(0.5)
def test_reading_alone(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "t.csv"
        path.write_bytes(content)
        try:
            table, as_text = read_arrow(str(path))
            assert len(read_frame(table, as_text)) == table.num_rows > 0
        except DataError as error:
            assert error.next
