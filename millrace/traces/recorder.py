"""Keeping traces: a bounded buffer that requests append to, and a thread that writes and exports what is in it.

Nothing here can fail a request or make it wait. Where more comes than can be written, the oldest traces are dropped and
counted. A process that is killed loses the traces of its last quarter of a second. The same thread removes what is
older than traces are to be kept, of whichever process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from millrace.errors import DataError, MillraceError
from millrace.traces import table
from millrace.traces.export import Exporter
from millrace.traces.quiet import Quiet
from millrace.traces.records import WIDTH, Block, RecordTuple

_log = logging.getLogger(__name__)

#: Requests that wait to be written: those of some seconds. Some more may, up to a block.
CAPACITY = 16_384
#: Requests in a line. The thread has the interpreter to itself for one line at a time, about 0.1 ms.
BLOCK = 128
_FULL = BLOCK * WIDTH
#: Between two lines: requests wait for the interpreter meanwhile.
_YIELD_SECONDS = 0.0005
_FLUSH_SECONDS = 0.25
_ROTATE_SECONDS = 60.0
#: Between two looks for traces that are too old.
EXPIRE_SECONDS = 600.0


class Recorder:
    """Keeps the traces of one pipeline below its inference `folder`, and hands them to `exporter`, if any."""

    def __init__(
        self,
        folder: Path,
        pipeline: str,
        exporter: Exporter | None = None,
        *,
        capacity: int = CAPACITY,
        flush_seconds: float = _FLUSH_SECONDS,
        rotate_seconds: float = _ROTATE_SECONDS,
    ) -> None:
        self._folder = folder
        self._exporter = exporter
        self._flush_seconds = flush_seconds
        # Cell behind cell: a tuple a request that lives on would be one more object for the garbage collector to visit.
        self._cells: list[Any] = []
        self._full: deque[list[Any]] = deque()
        self._most_full = max(capacity // BLOCK, 1)
        #: Age at which traces are removed; None: never. It may be set at any time.
        self.keep_seconds: float | None = None
        # One counter for each thread that counts.
        self._overrun = self._unwritten = 0
        self._writing = threading.Lock()
        self._warn_of_overrun, self._warn_of_disk = Quiet(_log), Quiet(_log)
        self._closing = threading.Event()
        self._writer = table.writer(folder, pipeline, rotate_seconds)
        self._thread = threading.Thread(target=self._run, name="trace-log", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Traces that were dropped: more came than could be written, or the disk did not take them."""
        return self._overrun + self._unwritten

    def add(self, record: RecordTuple) -> None:
        """Keep the trace of a request that has ended; never waits, never raises. One thread calls this."""
        cells = self._cells
        cells.extend(record)
        if len(cells) >= _FULL:
            self._cells = []
            if len(self._full) == self._most_full:
                with suppress(IndexError):  # the other thread has just taken it
                    self._overrun += len(self._full.popleft()) // WIDTH
            self._full.append(cells)

    def flush(self) -> None:
        """Write what has been added by now."""
        self._drain(0.0)

    def _drain(self, pause: float) -> None:
        with self._writing:
            epoch = time.time() - time.perf_counter()
            for cells in self._taken():
                self._write(cells, epoch)
                time.sleep(pause)
        if self._overrun:
            self._warn_of_overrun(f"{self._overrun} traces came faster than they could be written to {self._folder}")

    def _taken(self) -> Iterator[list[Any]]:
        """The cells of what has been added by now, block by block; what comes meanwhile is for the next time."""
        begun = self._cells
        for _ in range(len(self._full)):
            with suppress(IndexError):  # whoever adds has just dropped it
                yield from _emptied(self._full.popleft())
        # It may have become full, and one of the others, meanwhile.
        yield from _emptied(begun)

    def rotate(self) -> None:
        """Write what has been added by now, as Parquet."""
        self.flush()
        self._writer.rotate()

    def expire(self) -> None:
        """Remove the traces that are older than `keep_seconds`."""
        if self.keep_seconds is None:
            return
        try:
            table.expire(self._folder, time.time() - self.keep_seconds)
        except (MillraceError, OSError):
            # Tried again: they cost disk, and nothing else.
            _log.exception("old traces in %s", self._folder)

    def close(self) -> None:
        """Write what is left and stop; what is added later is lost."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join()
        self.flush()
        self._writer.close()
        if self._exporter is not None:
            self._exporter.close()

    def _run(self) -> None:
        try:
            table.compact(self._folder)
        except (DataError, OSError):
            # A damaged segment must not keep traces from being written; readers report it too.
            _log.exception("traces in %s", self._folder)
        expired = float("-inf")
        while not self._closing.wait(self._flush_seconds):
            self._drain(_YIELD_SECONDS)
            if self.keep_seconds is not None and time.monotonic() - expired >= EXPIRE_SECONDS:
                expired = time.monotonic()
                self.expire()

    def _write(self, cells: list[Any], epoch: float) -> None:
        try:
            block = Block.of(cells, epoch)
            if self._exporter is not None:
                self._exporter.offer(block)
            self._writer.append(table.record_of(block))
        except Exception as error:  # noqa: BLE001 - a full disk, most likely; the thread must go on whatever is wrong
            self._unwritten += len(cells) // WIDTH
            self._warn_of_disk(f"{self._unwritten} traces were not written so far: {type(error).__name__}: {error}")


def _emptied(found: list[Any]) -> Iterator[list[Any]]:
    """What is in the list, if anything, which is not in it any more.

    Another thread may add to it: copying and deleting are one step each for others, and so is adding a whole record.
    """
    cells = found[:]
    del found[: len(cells)]
    if cells:
        yield cells
