"""Reading tables: windows, late labels, row names, and files that are no tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pandas as pd
import pytest

from millrace.errors import SourceError
from millrace.pipeline import Source
from millrace.table_source import KNOWN_AT, ROW_ID, TableSource

pytestmark = pytest.mark.unit
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FOREVER = datetime(2100, 1, 1, tzinfo=UTC)


def table(days: int = 10) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": pd.date_range("2024-01-01", periods=days, freq="D").strftime("%Y-%m-%d"),
            "code": ["007", "42"] * (days // 2),
            "flag": [True, False] * (days // 2),
            "whole": [1, None] * (days // 2),
            "label": [0, 1] * (days // 2),
        }
    )


def csv_source(folder: Path, frame: pd.DataFrame | None = None, **options: object) -> TableSource:
    (table() if frame is None else frame).to_csv(folder / "t.csv", index=False)
    return TableSource("t.csv", "time", "label", folder=folder, **options)  # type: ignore[arg-type]


def bytes_source(folder: Path, content: bytes, name: str = "t.csv", **options: str) -> TableSource:
    (folder / name).write_bytes(content)
    return TableSource(name, **{"time": "time", "label": "label", **options}, folder=folder)  # type: ignore[arg-type]


def test_it_is_a_source_with_an_extent(tmp_path: Path) -> None:
    source = csv_source(tmp_path)
    assert isinstance(source, Source)
    assert source.extent() == (START, START + 9 * DAY + timedelta(microseconds=1))


def test_windows_are_half_open_and_split_the_table(tmp_path: Path) -> None:
    source = csv_source(tmp_path)
    one = source.rows(START, START + 4 * DAY, FOREVER)
    two = source.rows(START + 4 * DAY, START + 20 * DAY, FOREVER)
    assert (len(one), len(two)) == (4, 6)
    assert pd.concat([one, two])["time"].is_monotonic_increasing
    assert pd.concat([one, two])[ROW_ID].is_unique


def test_nothing_later_than_as_of_is_told(tmp_path: Path) -> None:
    source = csv_source(tmp_path, known_after_days=3)
    rows = source.rows(START, START + 10 * DAY, START + 5 * DAY)
    assert len(rows) == 6
    assert rows["label"].notna().tolist() == [True, True, True, False, False, False]
    assert rows[KNOWN_AT].notna().tolist() == [True, True, True, False, False, False]
    assert rows[KNOWN_AT].iloc[0] == START + 3 * DAY


def test_outcomes_may_have_a_column_of_their_own(tmp_path: Path) -> None:
    frame = table().assign(closed=["2024-01-20", None] * 5)
    source = csv_source(tmp_path, frame, known_at_column="closed")
    assert source.rows(START, FOREVER, START + 15 * DAY)["label"].notna().sum() == 0
    assert source.rows(START, FOREVER, START + 19 * DAY)["label"].notna().sum() == 5


def test_rows_without_a_time_come_once_with_the_first_window(tmp_path: Path) -> None:
    frame = table()
    frame.loc[3, "time"] = "some day"
    source = csv_source(tmp_path, frame)
    assert source.rows(START, START + DAY, FOREVER)["time"].isna().sum() == 1
    assert source.rows(START + DAY, FOREVER, FOREVER)["time"].isna().sum() == 0


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_cells_have_one_form_in_every_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        table().to_parquet(path)
    else:
        table().to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    rows = TableSource(str(path), "time", "label").rows(START, FOREVER, FOREVER)
    assert rows["code"].tolist()[:2] == ["007", "42"]
    assert rows["flag"].tolist()[:2] == ["true", "false"]
    assert rows["whole"].astype("string").fillna("-").tolist()[:2] == ["1", "-"]


def test_row_names_survive_sorting_appending_and_late_labels(tmp_path: Path) -> None:
    before = csv_source(tmp_path, table().assign(label=None, other=range(10))).table
    longer = pd.concat([table(12).assign(other=range(12))]).sample(frac=1, random_state=0)
    after = csv_source(tmp_path, longer).table
    assert set(before[ROW_ID]) < set(after[ROW_ID])
    twins = csv_source(tmp_path, pd.concat([table(), table()])).table
    assert twins[ROW_ID].is_unique


def test_given_ids_are_text(tmp_path: Path) -> None:
    rows = csv_source(tmp_path, table().assign(key=range(10)), id="key").rows(START, FOREVER, FOREVER)
    assert rows["key"].tolist()[:2] == ["0", "1"]
    assert ROW_ID not in rows


@pytest.mark.parametrize(
    "times",
    [
        ["1704067200", "1704153600"],
        ["1704067200000", "1704153600000"],
        ["20240101", "20240102"],
        ["2024-01-01T01:00:00+01:00", "2024-01-02T00:00:00.5Z"],
        ["01/01/2024", "13/01/2024"],
        ["1 January 2024", "2 January 2024"],
    ],
)
def test_times_are_read_as_people_write_them(times: list[str], tmp_path: Path) -> None:
    source = bytes_source(tmp_path, f"time,label\n{times[0]},1\n{times[1]},0\n".encode())
    assert source.extent()[0] == START
    assert source.table["time"].notna().all()


def test_time_format_decides_what_is_ambiguous(tmp_path: Path) -> None:
    content = b"time,label\n01/02/2024,1\n02/03/2024,0\n"
    with pytest.raises(SourceError, match="month/day or as day/month"):
        bytes_source(tmp_path, content).extent()
    source = bytes_source(tmp_path, content, time_format="%d/%m/%Y")
    assert source.extent()[0] == datetime(2024, 2, 1, tzinfo=UTC)


def test_fingerprint_follows_content_and_options(tmp_path: Path) -> None:
    first, again = csv_source(tmp_path), csv_source(tmp_path)
    assert first.fingerprint() == again.fingerprint()
    assert csv_source(tmp_path, known_after_days=1).fingerprint() != first.fingerprint()
    assert csv_source(tmp_path, table(12)).fingerprint() != again.fingerprint()


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    source = csv_source(tmp_path)
    source.fingerprint()
    table(12).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SourceError, match="changed while it was read"):
        source.extent()


def test_urls_are_read_through_fsspec() -> None:
    with fsspec.open("memory://byot/t.csv", "wb") as file:
        file.write(table().to_csv(index=False).encode())
    source = TableSource("memory://byot/t.csv", "time", "label")
    assert len(source.rows(START, FOREVER, FOREVER)) == 10
    assert source.fingerprint() == TableSource("memory://byot/t.csv", "time", "label").fingerprint()


def test_a_missing_column_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,label\n2024-01-01,1\n")
    with pytest.raises(SourceError, match="did you mean 'label'"):
        TableSource("t.csv", "time", "lable", folder=tmp_path).extent()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"time,label\n", "no rows"),
        (b"time,label,label\n2024-01-01,1,2\n", "twice"),
        (b"time,label\n2024-01-01,caf\xe9\n", "no readable .csv"),
        (b"time,l\xe9bel\n2024-01-01,1\n", "no readable .csv"),
        (b"time,label\n2024-01-01,1,3\n", "no readable .csv"),
        (b"time,label\nsoon,1\n", "holds no times"),
        (b"time,label,_row_id\n2024-01-01,1,2\n", "generated"),
    ],
)
def test_files_that_are_no_tables(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        bytes_source(tmp_path, content).extent()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("absent.csv", "does not exist"),
        ("table.xlsx", "no known format"),
        ("nowhere://bucket/t.csv", "cannot be opened"),
        ("broken.parquet", "no readable .parquet"),
        ("broken.csv.gz", "cannot be read"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, message: str, tmp_path: Path) -> None:
    for name in ("table.xlsx", "broken.parquet", "broken.csv.gz"):
        (tmp_path / name).write_bytes(b"nothing of the sort")
    with pytest.raises(SourceError, match=message):
        TableSource(address, "time", "label", folder=tmp_path).extent()


def test_secrets_in_a_url_are_not_shown() -> None:
    with pytest.raises(SourceError) as caught:
        TableSource("nowhere://user:secret@host/t.csv?token=secret", "time", "label").extent()
    assert "secret" not in str(caught.value)


def test_delays_are_given_one_way(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="known_after_days"):
        TableSource("t.csv", "time", "label", known_after_days=1, known_at_column="closed", folder=tmp_path)
