"""A version that is asked again what others have answered, and answers nobody.

It reads the log of answers, so a replica does nothing for it: what has been answered is in that log anyway, and the log
is the queue. It lives in a process of its own with the lowest priority that there is; when that falls behind, or too
much comes at once, requests are left out and counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from millrace.errors import MillraceError
from millrace.inference_log import shadow_record, shadow_writer
from millrace.log_tables import ANSWERS
from millrace.log_tail import LogTail
from millrace.log_writer import LogWriter
from millrace.request_values import Place, escape
from millrace.traffic import RING, place
from ray_jobs.serve.batching import Batch
from ray_jobs.serve.versions import LoadedVersion

#: Rows that are answered between two looks at most, and in one batch; seconds after which an answer is of no interest.
MOST_ROWS = 4096
BATCH_ROWS = 256
LATE_SECONDS = 5.0

#: What became of a mirrored request.
ANSWERED, FAILED, DROPPED = "answered", "failed", "dropped"
_MICROSECONDS = 1_000_000

Record = Mapping[str, Any]


def is_drawn(request_id: str, share: float) -> bool:
    """Whether a request belongs to the share; another process that asks comes to the same answer."""
    # Not by the place that decides which version answers it: the share must be one of each version's requests.
    return place(f"shadow\0{request_id}") < share * RING


@dataclass
class Shadow:
    """Answers a share of what is answered from now on, into the log `shadow` beside the log of answers. `count` is told
    the version and what became of each request."""

    version: LoadedVersion
    share: float
    folder: Path
    clock: Callable[[], float] = time.time
    count: Callable[[str, str], None] = field(default=lambda version, outcome: None, repr=False)
    _since: int = field(init=False)
    _tail: LogTail = field(init=False)
    _log: LogWriter = field(init=False)
    _dropped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        serving = self.version.predictor.spec.serving
        self._since = round(self.clock() * _MICROSECONDS)
        # Closed segments are of no interest: what was not seen while it was open is late.
        self._tail = LogTail(self.folder / ANSWERS, "answered_at", ("version",), since_seconds=0.0)
        self._log = shadow_writer(self.folder, self.version.data, serving.log_rotate_seconds)
        self._places = {name: Place("/rows/", f"/{escape(name)}") for name in self.version.data.features}

    def look(self) -> int:
        """Answer what has come since the last look; the number of requests that were answered.

        Raises:
            DataError: a segment of the log is damaged; the next look goes on behind it.
            ServiceError: the disk is full.
        """
        late = round((self.clock() - LATE_SECONDS) * _MICROSECONDS)
        taken: list[Record] = []
        rows = 0
        last: Record | None = None
        for record in self._tail.new():
            if not self._is_ours(record):
                continue
            if record["answered_at"] < late or rows >= MOST_ROWS:
                self._dropped, last = self._dropped + 1, record
                self.count(self.version.target.version, DROPPED)
                continue
            taken.append(record)
            rows += len(record["prediction"])
        answered = self._answer(taken)
        if self._dropped and last is not None and not taken:
            # Else nobody would hear of what was dropped while everything was.
            self._dropped -= 1
            self._write(last, [None] * len(last["prediction"]), error=DROPPED)
        return answered

    def close(self) -> None:
        """Close the log."""
        self._tail.close()
        self._log.close()

    def _is_ours(self, record: Record) -> bool:
        if record["answered_at"] < self._since or record["version"] == self.version.target.version:
            return False
        return is_drawn(record["request_id"], self.share)

    def _answer(self, records: Sequence[Record]) -> int:
        answered = 0
        encoded: list[tuple[Record, Batch]] = []
        rows = 0
        for record in records:
            batch = self._encode(record)
            if batch is None:
                continue
            encoded.append((record, batch))
            rows += len(record["prediction"])
            if rows >= BATCH_ROWS:
                answered += self._execute(encoded)
                encoded, rows = [], 0
        return answered + (self._execute(encoded) if encoded else 0)

    def _encode(self, record: Record) -> Batch | None:
        """The request as this version takes it; None when it does not."""
        missing = [None] * len(record["prediction"])
        given = {name: record["features"].get(name, missing) for name in self._places}
        try:
            return self.version.contract.features(given, self._places)[0]
        except MillraceError as error:
            self._write(record, missing, error=type(error).__name__)
            return None

    def _execute(self, encoded: Sequence[tuple[Record, Batch]]) -> int:
        """Answer them together; one that fails fails alone. The number that did not."""
        batch = {name: np.concatenate([each[name] for _, each in encoded]) for name in encoded[0][1]}
        try:
            answers = self.version.told(self.version.predictor.predict(batch)).headline
        except Exception as error:  # noqa: BLE001 - whatever the model raises, it is told of it and of nothing else
            if len(encoded) > 1:
                return sum(self._execute([each]) for each in encoded)
            record = encoded[0][0]
            self._write(record, [None] * len(record["prediction"]), error=type(error).__name__)
            return 0
        start = 0
        for record, _ in encoded:
            end = start + len(record["prediction"])
            self._write(record, answers[start:end])
            start = end
        return len(encoded)

    def _write(self, record: Record, answers: Sequence[Any], *, error: str = "") -> None:
        dropped, self._dropped = self._dropped, 0
        version = self.version.target.version
        if error != DROPPED:
            self.count(version, FAILED if error else ANSWERED)
        self._log.append(shadow_record(record, version, answers, error=error, dropped=dropped))


def yield_to_all() -> None:
    """Have this process run only where a core would be idle."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        # Not Linux, or a sandbox that allows less.
        os.nice(19)
