"""Following a log of segments while it is written: each call gives the records that are new.

For who looks every second: only what was appended is read, as lines, without Arrow or pandas.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from millrace.segments import CLOSED, OPEN, damaged_segment

_MOST_BYTES = 16_000_000


@dataclass
class _Open:
    """A segment that is read through its own handle, so that what was written before it was closed is not lost."""

    path: Path
    file: IO[bytes]
    torn: bytes = b""
    has_header: bool = False


@dataclass
class LogTail:
    """The records below `folder`, each given once: those of open segments, and of closed ones not older than
    `since_seconds` at the first look.

    `time_column` is a closed segment's time, in which a record has microseconds since 1970.
    """

    folder: Path
    time_column: str
    columns: tuple[str, ...]
    since_seconds: float
    _open: dict[str, _Open] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)

    def new(self) -> Iterator[Mapping[str, Any]]:
        """The records that were appended since the last call, segment by segment.

        Raises:
            DataError: a line is damaged; the next call goes on behind it.
        """
        # Segments that are there, and those that end below: the listing may have met them between two names.
        present: set[str] = set()
        closed: list[Path] = []
        for entry in self._listing():
            path = Path(entry)
            if path.suffix == OPEN and not path.name.startswith("."):
                present.add(path.stem)
                self._begin(path)
            elif path.suffix == CLOSED:
                present.add(path.stem)
                closed.append(path)
        for segment in list(self._open.values()):
            yield from self._more(segment)
            if not segment.path.exists():
                # What its writer appended after the read above was still written before it was unlinked.
                yield from self._more(segment)
                segment.file.close()
                present.add(segment.path.stem)
                del self._open[segment.path.stem]
        for path in closed:
            if path.stem not in self._seen:
                self._seen.add(path.stem)
                yield from self._closed(path)
        self._seen &= present | set(self._open)

    def close(self) -> None:
        """Let go of all segments."""
        for segment in self._open.values():
            segment.file.close()
        self._open.clear()

    def _listing(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            return sorted(entry.path for entry in entries)
        return []

    def _begin(self, path: Path) -> None:
        if path.stem in self._seen:
            return
        # Closed since the listing: then its Parquet file is found by the next call, or this one.
        with contextlib.suppress(FileNotFoundError):
            self._open[path.stem] = _Open(path, path.open("rb", buffering=0))
            self._seen.add(path.stem)

    def _more(self, segment: _Open) -> Iterator[Mapping[str, Any]]:
        while content := segment.file.read(_MOST_BYTES):
            whole, newline, segment.torn = (segment.torn + content).rpartition(b"\n")
            if not newline:
                continue
            lines = whole.split(b"\n")
            if not segment.has_header:
                segment.has_header, lines = True, lines[1:]
            try:
                yield from [orjson.loads(line) for line in lines]
            except ValueError as error:
                raise damaged_segment(segment.path, error) from error

    def _closed(self, path: Path) -> Iterator[Mapping[str, Any]]:
        """A segment that came and was closed between two looks, or before the first: one record a request."""
        try:
            if time.time() - path.stat().st_mtime > self.since_seconds:
                return
        except FileNotFoundError:
            return
        import pyarrow.parquet as pq

        table = pq.read_table(path, columns=["request_id", self.time_column, *self.columns])
        moments = table[self.time_column].cast("int64").to_pylist()
        requests = set()
        for row, moment in zip(table.drop_columns(self.time_column).to_pylist(), moments, strict=True):
            if row["request_id"] not in requests:
                requests.add(row["request_id"])
                yield row | {self.time_column: moment}
