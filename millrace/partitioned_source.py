"""A source of many files, one for each period of time: CSV or Parquet, on a disk or at any fsspec URL.

The period stands in the path: `s3://bucket/sales/year=%Y/month=%m/*.parquet`. So a window opens the files that it
touches and no other, a new period stages what is new and nothing else, and memory holds one period at a time.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from millrace.errors import SourceError
from millrace.scaffold.table_file import file_facts, list_files, shown
from millrace.storage import digest_json
from millrace.table_source import TableSource
from millrace.window import Window, utc

_DIRECTIVES = {"%Y": r"(?P<Y>\d{4})", "%m": r"(?P<m>\d{1,2})", "%d": r"(?P<d>\d{1,2})", "%H": r"(?P<H>\d{1,2})"}
_ORDER = "YmdH"


@dataclass(frozen=True, slots=True)
class PeriodFile:
    """A file and the period that its path names."""

    url: str
    window: Window


class PartitionedSource:
    """Rows of the files that `files` names.

    Args:
        files: Path or URL with `%Y`, and perhaps `%m`, `%d` and `%H`, where the period stands, and `*` for anything
            else in one path segment; a relative path is taken from `folder`. A file has rows of its own period only.
        time, label, id, known_after_days, known_at_column, time_format: As of TableSource. `id` is needed: a digest
            of a row's cells would have to be unique over all files.
        folder: Where relative paths start; none: the current folder.

    Raises:
        SourceError: `files` names no period.
    """

    def __init__(
        self,
        files: str,
        time: str,
        label: str,
        id: str,
        known_after_days: float = 0.0,
        known_at_column: str | None = None,
        time_format: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self._names = _pattern(files)
        root = folder or Path.cwd()
        self.url = files if "://" in files else str(root.resolve() / Path(files).expanduser())
        self._options: dict[str, Any] = {
            "time": time,
            "label": label,
            "id": id,
            "known_after_days": known_after_days,
            "known_at_column": known_at_column,
            "time_format": time_format,
        }

    def prepare(self, table: pd.DataFrame) -> pd.DataFrame:
        """A place for columns of your own: override it to derive features from the columns of a row."""
        return table

    def extent(self) -> tuple[datetime, datetime]:
        """From the begin of the first period to the end of the last."""
        windows = [file.window for file in self.files]
        return min(window.start for window in windows), max(window.end for window in windows)

    def fingerprint(self) -> str:
        """Digest of all files' names, sizes and tags or ages, and of the options; no file is opened."""
        return self._stamp(self.files)

    def window_fingerprint(self, start: datetime, end: datetime) -> str:
        """The same of the files that a window touches: what others hold does not make its shard another."""
        return self._stamp(self._touched(start, end))

    def rows(self, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
        """Rows of [start, end) that had happened by `as_of`; outcomes that came later are hidden.

        Raises:
            SourceError: a file cannot be read, lacks a column, has other columns than those before it, or has a row of
                another period.
        """
        found: list[pd.DataFrame] = []
        # A period without a file has no rows; which columns they would have, another file tells.
        for file in self._touched(start, end) or self.files[:1]:
            rows = _FileSource(self, file, self._options).rows(start, end, as_of)
            if found and list(rows.columns) != list(found[0].columns):
                raise SourceError(
                    f"{shown(file.url)} has other columns than the files of its window before it",
                    got=list(rows.columns),
                    allowed=", ".join(map(str, found[0].columns)),
                    next="write all files of a data set with the same columns",
                )
            found.append(rows)
        return pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]

    @cached_property
    def files(self) -> Sequence[PeriodFile]:
        """All files, by period and name, as they were found first.

        Raises:
            SourceError: the store does not answer, or there is none.
        """
        glob = re.sub(r"(%[YmdH]|\*)+", "*", self.url)
        found = []
        for url in list_files(glob):
            if (match := self._names.search(url)) is not None:
                found.append(PeriodFile(url, _window(match.groupdict(), url)))
        if not found:
            raise SourceError(
                f"no file is called as {shown(self.url)} says",
                allowed="a path with %Y, %m, %d and %H for the period, and * for anything else",
                next="correct data.source_options.files, or look whether the files are there and may be listed",
            )
        return sorted(found, key=lambda file: (file.window.start, file.url))

    def _touched(self, start: datetime, end: datetime) -> list[PeriodFile]:
        begin, stop = utc(start), utc(end)
        return [file for file in self.files if file.window.start < stop and file.window.end > begin]

    def _stamp(self, files: Sequence[PeriodFile]) -> str:
        return digest_json([[[file.url, file_facts(file.url)] for file in files], self._options])


class _FileSource(TableSource):
    """One file of a partitioned source; only rows of its own period are right in it."""

    def __init__(self, whole: PartitionedSource, file: PeriodFile, options: dict[str, Any]) -> None:
        super().__init__(file.url, **options)
        self._whole, self._file = whole, file

    def prepare(self, table: pd.DataFrame) -> pd.DataFrame:
        return self._whole.prepare(table)

    @cached_property
    def table(self) -> pd.DataFrame:
        table = super().table
        window, times = self._file.window, table[self.time]
        strange = (times < window.start) | (times >= window.end)
        if strange.any():
            raise SourceError(
                f"{shown(self.url)} has {int(strange.sum())} rows of another period than its name says",
                got=str(times[strange].iloc[0]),
                allowed=str(window),
                next="move these rows to the file of their period",
            )
        return table

    def _stamp(self) -> str:
        return digest_json(file_facts(self.url))


def _pattern(files: str) -> re.Pattern[str]:
    """What a file's path matches."""
    named = [directive for directive in _DIRECTIVES if directive in files]
    letters = "".join(directive[1] for directive in named)
    if not letters or not _ORDER.startswith(letters) or any(files.count(each) > 1 for each in named):
        raise SourceError(
            "the files' names do not say which period they are of",
            got=files,
            allowed="%Y, %Y and %m, these and %d, or these and %H, each once",
            next="correct data.source_options.files, for example s3://bucket/sales/year=%Y/month=%m/*.parquet",
        )
    parts = re.split(r"(%[YmdH]|\*)", files.removeprefix("./").partition("://")[2] or files.removeprefix("./"))
    return re.compile(
        "".join(_DIRECTIVES.get(part, "[^/]*" if part == "*" else re.escape(part)) for part in parts) + "$"
    )


def _window(named: dict[str, str], url: str) -> Window:
    """The period that a path names: a year, a month, a day or an hour."""
    numbers = [int(named[letter]) for letter in _ORDER if letter in named]
    try:
        start = datetime(*[*numbers, 1, 1][: max(3, len(numbers))], tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError as error:
        raise SourceError(
            f"{shown(url)} is called by a period that does not exist", got=str(error), next="rename or remove the file"
        ) from error
    days = 366 if calendar.isleap(start.year) else 365
    length = {
        1: timedelta(days=days),
        2: timedelta(days=calendar.monthrange(start.year, start.month)[1]),
        3: timedelta(days=1),
        4: timedelta(hours=1),
    }[len(numbers)]
    return Window(start, start + length)
