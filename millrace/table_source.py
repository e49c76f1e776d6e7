"""A source that reads one table: CSV, TSV (plain or gzipped) or Parquet, at a path or any fsspec URL.

The whole table is held in memory, once per instance. Cells keep one string form everywhere, in the table and in
requests: booleans are "true" and "false", whole numbers have no decimal point, codes keep their leading zeros.
"""

from __future__ import annotations

import os
import warnings
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from millrace.errors import SourceError, nearest
from millrace.scaffold.table_file import content_stamp, read_arrow, read_frame, row_names, shown
from millrace.spec.base import MAX_DAYS
from millrace.storage import digest_json
from millrace.window import LAST_TIME, utc

ROW_ID = "_row_id"
KNOWN_AT = "_known_at"

_NANOSECONDS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
_MOST_NANOSECONDS = 9.2e18  # a timestamp is a whole number of 64 bits


class TableSource:
    """Rows of one table.

    Times without a zone are taken as UTC. Rows whose time cannot be read lie in no window; they come with the window
    that holds the table's first event, so that the contract quarantines them and none is lost without a word.

    Args:
        table: Path or URL; a relative path is taken from `folder`.
        time: Column with the time of the event.
        label: Column with the outcome.
        id: Column that names a row; none: a digest of the row's other cells, in the column `_row_id`.
        known_after_days: Days from the event until its outcome is known.
        known_at_column: Column with the moment an outcome became known, instead of `known_after_days`.
        time_format: strptime format of the time column; none: ISO 8601, epoch numbers and common forms are tried.
        folder: Where relative paths start; none: the current folder.
    """

    def __init__(
        self,
        table: str,
        time: str,
        label: str,
        id: str | None = None,
        known_after_days: float = 0.0,
        known_at_column: str | None = None,
        time_format: str | None = None,
        folder: Path | None = None,
    ) -> None:
        if not 0 <= known_after_days <= MAX_DAYS or (known_after_days and known_at_column):
            raise SourceError(
                f"known_after_days must be 0 to {MAX_DAYS:g}, and 0 when known_at_column is given",
                got=known_after_days,
                next="correct data.source_options",
            )
        self.url = _absolute(table, folder)
        self.time, self.label, self.id = time, label, id
        self.known_after = timedelta(days=known_after_days)
        self.known_at_column, self.time_format = known_at_column, time_format

    @property
    def row_id(self) -> str:
        """Name of the column that names a row."""
        return self.id or ROW_ID

    def prepare(self, table: pd.DataFrame) -> pd.DataFrame:
        """A place for columns of your own: override it to derive features from the columns of a row."""
        return table

    def extent(self) -> tuple[datetime, datetime]:
        """From the first event to just after the last."""
        times = self.table[self.time]
        first, last = (moment.floor("us").to_pydatetime() for moment in (times.min(), times.max()))
        return first, last + timedelta(microseconds=1)

    def fingerprint(self) -> str:
        """Digest of the table's bytes (remote: of its tag and age, where the store tells them) and of the options."""
        return self._fingerprint

    def rows(self, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
        """Rows of [start, end) that had happened by `as_of`; outcomes that came later are hidden."""
        begin, stop, now = (pd.Timestamp(utc(moment)) for moment in (start, end, as_of))
        times = self.table[self.time]
        wanted = (times >= begin) & (times < stop) & (times <= now)
        if begin <= times.min() < stop and times.min() <= now:
            wanted |= times.isna()
        rows = self.table[wanted].reset_index(drop=True)
        known = (rows[KNOWN_AT] <= now) & rows[self.label].notna()
        rows[self.label] = rows[self.label].where(known, None)
        rows[KNOWN_AT] = rows[KNOWN_AT].where(known)
        return rows

    @cached_property
    def table(self) -> pd.DataFrame:
        """All rows, sorted by time, with the generated columns; rows without a time come last.

        Raises:
            SourceError: the table is absent, unreadable, empty, or has no column of a name that is needed.
        """
        before = self.fingerprint()
        table = self.prepare(self._read())
        if self._stamp() != before:
            raise SourceError(f"{shown(self.url)} changed while it was read", next="run again when its writer is done")
        self._check_columns(table)
        table[self.time] = parse_times(table[self.time], self.time, self.time_format)
        if self.known_at_column:
            table[KNOWN_AT] = parse_times(table[self.known_at_column], self.known_at_column, None)
        else:
            # What would become known after the last timestamp never does.
            times = table[self.time]
            table[KNOWN_AT] = times.where(times < LAST_TIME - self.known_after) + self.known_after
        table[self.row_id] = (
            table[self.row_id].astype("string").astype("object").where(table[self.row_id].notna(), None)
        )
        return table.sort_values(self.time, kind="stable", ignore_index=True)

    @cached_property
    def _fingerprint(self) -> str:
        return self._stamp()

    def _stamp(self) -> str:
        options = [self.time, self.label, self.id, self.known_after, self.known_at_column, self.time_format]
        return digest_json([content_stamp(self.url), options])

    def _read(self) -> pd.DataFrame:
        raw, as_text = read_arrow(self.url)
        taken = sorted({ROW_ID, KNOWN_AT} & set(raw.column_names))
        if taken:
            raise SourceError(
                f"{shown(self.url)}: column '{taken[0]}' has a name that is generated", next="rename the column"
            )
        frame = read_frame(raw, as_text)
        if self.id is None:
            # Outcomes arrive later: a row must keep its name when its label comes.
            late = {self.label, self.known_at_column}
            frame[ROW_ID] = row_names(raw.select([name for name in raw.column_names if name not in late]))
        return frame

    def _check_columns(self, table: pd.DataFrame) -> None:
        needed = {"time": self.time, "label": self.label, "id": self.id, "known_at_column": self.known_at_column}
        for option, name in needed.items():
            if name is not None and name not in table.columns:
                raise SourceError(
                    f"{shown(self.url)} has no column '{name}'",
                    got=[column for column in table.columns if column != ROW_ID],
                    allowed=nearest(name, (str(column) for column in table.columns if column != ROW_ID)),
                    next=f"correct '{option}'",
                )
            if name is not None and table[name].dtype == object:
                first = next(iter(table[name].dropna()), None)
                if isinstance(first, bytes | list | dict | np.ndarray):
                    raise SourceError(
                        f"{shown(self.url)}: the cells of column '{name}' are no single values",
                        got=first,
                        next=f"name another column as '{option}'",
                    )


def parse_times(column: pd.Series, name: str, time_format: str | None) -> pd.Series:
    """`column` as UTC times, NaT where a cell is none.

    Raises:
        SourceError: no cell is a time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns when it falls back to a slower parser; the count decides here
        readings = [_as_times(column, options) for options in _time_readings(column, time_format)]
    # The reading that loses fewest cells wins; ISO 8601 goes first.
    lost = [int(reading.isna().sum()) for reading in readings]
    times = readings[lost.index(min(lost))]
    if times.isna().all():
        raise SourceError(
            f"column '{name}' holds no times",
            got=column.dropna().head(3).tolist(),
            allowed="timestamps, ISO 8601 text or seconds since 1970",
            next="name another column, or set time_format in data.source_options",
        )
    if len(readings) == 3 and lost[0] > lost[1] == lost[2] and not readings[1].equals(readings[2]):
        raise SourceError(
            f"column '{name}' may be read as month/day or as day/month",
            got=column.dropna().head(3).tolist(),
            next="set time_format, for example %d/%m/%Y",
        )
    return times


def _time_readings(column: pd.Series, time_format: str | None) -> list[dict[str, Any]]:
    if time_format is not None:
        return [{"format": time_format}]
    if not pd.api.types.is_numeric_dtype(column):
        return [{"format": "ISO8601"}, {"dayfirst": False}, {"dayfirst": True}]
    size = float(column.abs().median()) if column.notna().any() else 0.0
    if 19_000_101 <= size <= 22_001_231 and (column.dropna() % 1 == 0).all():
        return [{"format": "%Y%m%d"}]
    # Seconds, milliseconds, microseconds and nanoseconds of our time differ by factors of a thousand.
    unit = next((unit for unit, least in (("ns", 1e17), ("us", 1e14), ("ms", 1e11), ("s", 1e8)) if size >= least), None)
    return [{"unit": unit}] if unit else [{"format": "%Y"}]


def _as_times(column: pd.Series, options: dict[str, Any]) -> pd.Series:
    if pd.api.types.is_timedelta64_dtype(column):  # which pandas would count from 1970
        return pd.Series(pd.NaT, index=column.index, dtype="datetime64[ns, UTC]")
    cells = column
    if "unit" in options:
        cells = column.astype("float64")
        cells = cells.where(cells.abs() < _MOST_NANOSECONDS / _NANOSECONDS[options["unit"]])
    cells = cells.astype("string") if "format" in options and pd.api.types.is_numeric_dtype(cells) else cells
    times = pd.to_datetime(cells, utc=True, errors="coerce", **options)
    in_range = (times > pd.Timestamp("1678-01-01", tz="UTC")) & (times < pd.Timestamp("2262-01-01", tz="UTC"))
    return times.where(in_range).astype("datetime64[ns, UTC]")


def _absolute(table: str, folder: Path | None) -> str:
    if "://" in table:
        return table
    # By its letters, after links are followed: `millrace new` reads the table before the folder is there.
    start = (folder or Path.cwd()).resolve()
    return os.path.normpath(start / Path(table).expanduser())
