"""A source of many files opens those that a window touches, and gives what one table of all rows would."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import partitioned_source
from millrace.errors import SourceError
from millrace.partitioned_source import PartitionedSource
from millrace.table_source import TableSource

START = datetime(2024, 1, 1, tzinfo=UTC)
FAR = datetime(2025, 1, 1, tzinfo=UTC)
PATTERN = "sales/year=%Y/month=%m/day=%d/*.parquet"


def table(num_rows: int = 400) -> pd.DataFrame:
    at = pd.date_range(START, periods=num_rows, freq="3h")
    number = np.arange(num_rows)
    return pd.DataFrame({"at": at, "key": [f"k{n}" for n in number], "x": number / 7, "left": number % 2 * 1.0})


def write(folder: Path, rows: pd.DataFrame, how: str = "year=%Y/month=%m/day=%d") -> list[Path]:
    found = []
    for name, part in rows.groupby(rows["at"].dt.strftime(how)):
        path = folder / "sales" / str(name) / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(path, index=False)
        found.append(path)
    return found


def source(folder: Path, files: str = PATTERN, **options: Any) -> PartitionedSource:
    return PartitionedSource(files, time="at", label="left", id="key", folder=folder, **options)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[PartitionedSource, TableSource]:
    folder = tmp_path_factory.mktemp("both")
    write(folder, table())
    table().to_parquet(folder / "all.parquet", index=False)
    options = {"time": "at", "label": "left", "id": "key", "known_after_days": 2.0}
    return PartitionedSource(PATTERN, folder=folder, **options), TableSource("all.parquet", folder=folder, **options)


@given(start=st.integers(-24, 1300), hours=st.integers(1, 500), known=st.integers(0, 1400))
@settings(max_examples=60, deadline=None)
def test_it_gives_what_one_table_would(
    both: tuple[PartitionedSource, TableSource], start: int, hours: int, known: int
) -> None:
    begin = START + timedelta(hours=start)
    window = begin, begin + timedelta(hours=hours), START + timedelta(hours=known)
    many, one = (each.rows(*window) for each in both)
    pd.testing.assert_frame_equal(many, one, check_dtype=False)


def test_only_files_of_the_window_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, table())
    found, opened = source(tmp_path), []
    real = TableSource._read

    def read(self: TableSource) -> pd.DataFrame:
        opened.append(Path(self.url).parent.name)
        return real(self)

    monkeypatch.setattr(partitioned_source.TableSource, "_read", read)
    found.rows(START + timedelta(days=3, hours=12), START + timedelta(days=5), FAR)
    assert opened == ["day=04", "day=05"]
    assert found.extent() == (START, START + timedelta(days=50))


def test_a_new_file_makes_no_old_window_another(tmp_path: Path) -> None:
    rows = table()
    write(tmp_path, rows[:320])
    before = source(tmp_path)
    whole = before.fingerprint()
    write(tmp_path, rows[320:])
    after = source(tmp_path)
    assert after.fingerprint() != whole
    for day in range(39):
        window = START + timedelta(days=day), START + timedelta(days=day + 1)
        assert before.window_fingerprint(*window) == after.window_fingerprint(*window)
    first = START, START + timedelta(days=1)
    was = after.window_fingerprint(*first)
    assert len(write(tmp_path, rows.assign(x=0.0)[:8])) == 1
    assert source(tmp_path).window_fingerprint(*first) != was


def test_a_period_without_a_file_has_no_rows(tmp_path: Path) -> None:
    paths = write(tmp_path, table())
    paths[4].unlink()
    rows = source(tmp_path).rows(START + timedelta(days=4), START + timedelta(days=5), FAR)
    assert len(rows) == 0
    assert {"at", "key", "x", "left"} <= set(rows.columns)


@pytest.mark.parametrize(
    ("how", "files", "days"),
    [("%Y", "sales/%Y/*.parquet", 366), ("%Y-%m", "sales/%Y-%m/part-*.parquet", 60), ("%Y%m%d", "sales/%Y%m%d/*", 50)],
)
def test_periods_of_every_length(how: str, files: str, days: int, tmp_path: Path) -> None:
    write(tmp_path, table(), how)
    found = source(tmp_path, files)
    assert len(found.rows(START, FAR, FAR)) == 400
    start, end = found.extent()
    assert (end - start).days == days


def corrupt(paths: list[Path]) -> None:
    paths[2].write_bytes(b"PAR1 and then nothing")


def misplaced(paths: list[Path]) -> None:
    paths[2].write_bytes(paths[3].read_bytes())


def other_columns(paths: list[Path]) -> None:
    pd.read_parquet(paths[2]).assign(y=1).to_parquet(paths[2], index=False)


def without_label(paths: list[Path]) -> None:
    pd.read_parquet(paths[2]).drop(columns="left").to_parquet(paths[2], index=False)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (corrupt, r"day=03/part-0.parquet"),
        (misplaced, r"day=03/part-0.parquet has 8 rows of another period than its name says"),
        (other_columns, r"day=03/part-0.parquet has other columns than the files of its window before it"),
        (without_label, r"day=03/part-0.parquet has no column 'left'"),
    ],
)
def test_a_bad_file_is_named(spoil: Callable[[list[Path]], None], what: str, tmp_path: Path) -> None:
    spoil(write(tmp_path, table()))
    with pytest.raises(SourceError, match=what) as caught:
        source(tmp_path).rows(START, FAR, FAR)
    assert caught.value.next


@pytest.mark.parametrize("files", ["sales/*.parquet", "sales/%m/*.parquet", "sales/%Y/%Y.csv", "sales/%Y-%d.csv"])
def test_names_must_say_which_period(files: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="do not say which period") as caught:
        source(tmp_path, files)
    assert "month=%m" in (caught.value.next or "")


def test_no_file_at_all_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file is called as"):
        source(tmp_path).extent()


def test_a_period_that_does_not_exist_is_said(tmp_path: Path) -> None:
    path = tmp_path / "sales" / "2024-13" / "a.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="called by a period that does not exist"):
        source(tmp_path, "sales/%Y-%m/*.parquet").extent()
