"""The writing end of a log of segments: one line and one system call a record, closing done in the background."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from millrace.errors import DataError, ServiceError
from millrace.faults import fault_point
from millrace.segments import Segment, ToTable, create, to_parquet, write


class LogWriter:
    """Appends records to segments below `folder`; each is on its way to the disk before `append` returns.

    `header` describes the records to `to_table`. A background thread closes segments older than `rotate_seconds` or
    larger than `rotate_bytes`.
    """

    def __init__(
        self,
        folder: Path,
        header: Mapping[str, Any],
        to_table: ToTable,
        rotate_seconds: float,
        rotate_bytes: int = 16_000_000,
    ) -> None:
        self.folder = folder
        self.header = dict(header)
        self._to_table = to_table
        self._rotate_seconds = rotate_seconds
        self._rotate_bytes = rotate_bytes
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._full: queue.SimpleQueue[Segment | None] = queue.SimpleQueue()
        self._is_closed = False
        folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._rotate_forever, name="log-rotation", daemon=True)
        self._thread.start()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write `record` as one line in one system call.

        Raises:
            ServiceError: the disk refuses it; nothing of the record stays in the log.
        """
        line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY)
        with self._lock:
            if self._is_closed:
                raise ServiceError(f"the log in {self.folder} is closed", next="send the request again")
            try:
                segment = self._segment or self._open()
                with fault_point("log.append"):
                    write(segment, line)
            except OSError as error:
                raise ServiceError(
                    f"the log in {self.folder} cannot be written", got=str(error), next="free disk space"
                ) from error
            if segment.num_bytes >= self._rotate_bytes:
                self._retire()

    def rotate(self) -> None:
        """Close the open segment now and wait until it is Parquet."""
        with self._lock:
            segment, self._segment = self._segment, None
        if segment is not None:
            self._finish(segment)

    def close(self) -> None:
        """Close the open segment and stop the background thread; later appends are refused."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._retire()
        self._full.put(None)
        self._thread.join()

    def _open(self) -> Segment:
        self._segment = create(self.folder, self.header)
        return self._segment

    def _retire(self) -> None:
        """Hand the open segment to the background thread. The lock is held."""
        if self._segment is not None:
            self._full.put(self._segment)
            self._segment = None

    def _rotate_forever(self) -> None:
        while True:
            with contextlib.suppress(queue.Empty):
                segment = self._full.get(timeout=min(self._rotate_seconds / 4, 1.0))
                if segment is None:
                    return
                self._finish(segment)
                continue
            with self._lock:
                if self._segment and time.monotonic() - self._segment.opened_at >= self._rotate_seconds:
                    self._retire()

    def _finish(self, segment: Segment) -> None:
        try:
            to_parquet(segment.path, segment.fd, self._to_table)
        except (DataError, OSError):
            # The lines stay: readers see them, and the next `compact` tries again and reports.
            pass
        finally:
            os.close(segment.fd)
