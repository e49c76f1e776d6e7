"""A log that many processes append to: JSON lines while a segment is open, Parquet once it is closed.

A segment is one file of one writer, `<id>.jsonl`: a header line, then one line per record. The writer holds an
exclusive `flock` on it, which the kernel releases when the process ends, however it ends. So who can take the lock
of a segment knows that its owner is gone: no process ids to compare, none to be reused. Closing a segment writes
`<id>.parquet` under a temporary name, renames it and removes the JSON lines; a reader that sees both counts one.

What is not covered: no fsync per record. A killed process loses nothing that `append` returned from; a power cut
may lose the last seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from millrace.errors import DataError
from millrace.faults import fault_point

if TYPE_CHECKING:
    import pyarrow as pa

OPEN = ".jsonl"
CLOSED = ".parquet"

_ABANDONED_SECONDS = 3600.0
_MOMENT = "%Y%m%dT%H%M%S%f"

#: From a segment's header and its whole record lines to the table that is stored.
ToTable = Callable[[Mapping[str, Any], bytes], "pa.Table"]


@dataclass
class Segment:
    """An open segment of this process, whose lock is held through `fd`."""

    path: Path
    fd: int
    num_bytes: int
    opened_at: float


def compact(folder: Path, to_table: ToTable) -> list[Path]:
    """Turn the segments whose writers are gone into Parquet; the new files. Any number of processes may do it at once.

    Raises:
        DataError: a segment is damaged; the others are done all the same.
    """
    _remove_abandoned(folder)
    done: list[Path] = []
    damaged: DataError | None = None
    for path in sorted(folder.glob(f"*{OPEN}")):
        try:
            if _take_over(path, to_table):
                done.append(path.with_suffix(CLOSED))
        except DataError as error:
            damaged = damaged or error
    if damaged is not None:
        raise damaged
    return done


def remove_closed(folder: Path, before: float) -> list[Path]:
    """Remove the Parquet files that were closed before a moment, in seconds since 1970, so that all they hold is older;
    the files that this process removed. Any number of processes may do it at once, and readers look again."""
    # A segment's name begins with when it was opened. There may be many thousand, and few that are so old.
    first = f"{datetime.fromtimestamp(before, UTC):{_MOMENT}}"
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry) for entry in entries if entry.name < first and entry.name.endswith(CLOSED))
    removed = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                with fault_point("log.expire"):
                    path.unlink()
                removed.append(path)
    return removed


def split_lines(path: Path, content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the whole record lines of an open segment; a torn last line was never answered and is dropped.

    Raises:
        DataError: the header cannot be read.
    """
    whole = content[: content.rfind(b"\n") + 1]
    first, _, lines = whole.partition(b"\n")
    try:
        header = orjson.loads(first)
        if not isinstance(header, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise damaged_segment(path, error) from error
    return header, lines


def damaged_segment(path: Path, error: Exception) -> DataError:
    """The error for a segment whose lines cannot be read."""
    return DataError(
        f"log segment {path} is damaged",
        got=str(error),
        allowed="what its writer left there",
        next="move the file out of the folder, then read again",
    )


def create(folder: Path, header: Mapping[str, Any]) -> Segment:
    """A new segment, locked before anyone can see it under its name."""
    name = f"{datetime.now(UTC):{_MOMENT}}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    partial = folder / f".{name}.new"
    fd = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segment = Segment(folder / f"{name}{OPEN}", fd, 0, time.monotonic())
        with fault_point("log.create"):
            write(segment, orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE))
            partial.rename(segment.path)
    except BaseException:
        os.close(fd)
        raise
    return segment


def write(segment: Segment, line: bytes) -> None:
    """Append `line` whole or not at all."""
    written = 0
    try:
        written = os.write(segment.fd, line)
    finally:
        if written == len(line):
            segment.num_bytes += written
        else:
            os.ftruncate(segment.fd, segment.num_bytes)
    if written != len(line):
        raise OSError(f"only {written} of {len(line)} bytes were written")


def _take_over(path: Path, to_table: ToTable) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The file may have been finished by another process between the open and the lock.
        return os.fstat(fd).st_nlink > 0 and to_parquet(path, fd, to_table)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def to_parquet(path: Path, fd: int, to_table: ToTable) -> bool:
    """Replace the segment by its Parquet file; the caller holds the lock through `fd`."""
    import pyarrow.parquet as pq

    target = path.with_suffix(CLOSED)
    if not target.exists():
        content = os.pread(fd, os.fstat(fd).st_size, 0)
        header, lines = split_lines(path, content)
        partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
        try:
            with fault_point("log.finish"):
                pq.write_table(to_table(header, lines), partial, compression="zstd", write_page_checksum=True)
                _fsync(partial)
        except ValueError as error:
            raise damaged_segment(path, error) from error
        with fault_point("log.close"):
            partial.rename(target)
    with fault_point("log.remove"):
        path.unlink(missing_ok=True)
    return True


def _fsync(path: Path) -> None:
    # The lines are removed next: unlike them, a closed segment must survive a power cut.
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_abandoned(folder: Path) -> None:
    """Remove half-made files of killed processes; none holds a record that is not elsewhere."""
    for path in (*folder.glob(".*.new"), *folder.glob(".*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                with fault_point("log.clean"):
                    path.unlink()
