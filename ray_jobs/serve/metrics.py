"""What a pipeline's replicas did, for Prometheus: any one of them answers `/metrics` for all.

Each process counts in memory-mapped files of its own in a folder that all of them share (the multi-process mode of
Prometheus' client), so counting takes no lock and no network, and a killed process loses no count. What processes that
have ended counted is folded into one set of files, so that the sums never fall and the folder stays small.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from millrace.faults import fault_point

_log = logging.getLogger(__name__)

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

#: Seconds; from what a small table model takes to what a caller no longer waits for.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Customers with a series of their own in each process; later ones are counted together as `other`.
MAX_CUSTOMERS = 100
OTHER = "other"

#: How a request ended, by its status.
OUTCOMES = {2: "answered", 4: "refused", 5: "failed"}
LIMITED = "limited"

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# Kind, and the process that writes it; 0 stands for all that have ended.
_FILE = re.compile(r"(counter|histogram)_(\d+)\.db")
_ENDED = 0


@dataclass
class Metrics:
    """The series of one process. The first of them decides for the whole process where its files lie."""

    pipeline: str
    folder: Path
    _customers: set[str] = field(default_factory=set, init=False)
    _series: dict[tuple[str, str, int], tuple[Any, Any, Any]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Where the client of Prometheus looks.
        os.environ[_FOLDER] = str(self.folder)
        _count_in_files()
        fold(self.folder)

    def count(self, version: str, customer: str, status: int, num_rows: int, seconds: float) -> None:
        """One request for predictions that has ended; `seconds` is from its first byte to its answer."""
        key = (version, customer, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._bound(version, self._known(customer), status)
        requests, rows, duration = series
        requests.inc()
        if num_rows:
            rows.inc(num_rows)
        duration.observe(seconds)

    def text(self) -> bytes:
        """The series of all replicas, in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        with FileLock(self.folder / ".lock"):
            # A file is empty for the moment between its making and its first series.
            files = [str(path) for path in self.folder.glob("*.db") if path.stat().st_size]
            registry.register(_Merged(MultiProcessCollector.merge(files)))  # type: ignore[no-untyped-call]
            return bytes(generate_latest(registry))

    @cached_property
    def _instruments(self) -> tuple[Any, Any, Any]:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        registry = CollectorRegistry()
        who = ("pipeline", "version", "customer", "outcome")
        return (
            Counter("millrace_requests", "Requests for predictions.", who, registry=registry),
            Counter("millrace_rows", "Rows that were answered.", who, registry=registry),
            Histogram(
                "millrace_request_seconds",
                "Seconds from a request's arrival in the replica to its answer.",
                ("pipeline", "version", "outcome"),
                buckets=BUCKETS,
                registry=registry,
            ),
        )

    def _bound(self, version: str, customer: str, status: int) -> tuple[Any, Any, Any]:
        requests, rows, duration = self._instruments
        outcome = LIMITED if status == 429 else OUTCOMES[status // 100]
        who = (self.pipeline, version, customer, outcome)
        return requests.labels(*who), rows.labels(*who), duration.labels(self.pipeline, version, outcome)

    def _known(self, customer: str) -> str:
        if customer not in self._customers and len(self._customers) >= MAX_CUSTOMERS:
            return OTHER
        self._customers.add(customer)
        return customer


@dataclass(frozen=True)
class _Merged:
    """Series that were read from files, as a registry wants them."""

    series: Any

    def collect(self) -> Any:
        return self.series


def _count_in_files() -> None:
    """Where somebody has imported the client before us, it has decided to count in memory: tell it otherwise."""
    from prometheus_client import values

    if values.ValueClass is values.MutexValue:
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def fold(folder: Path) -> None:
    """Add what ended processes of this host have counted to the files of all that ended, and remove theirs.

    Killed in between, a process's last counts may be there twice; that is rarer than it matters.
    """
    from prometheus_client.mmap_dict import MmapedDict

    with FileLock(folder / ".lock"):
        for kind, path in _left_behind(folder):
            try:
                values = list(MmapedDict.read_all_values_from_file(str(path)))  # type: ignore[no-untyped-call]
            except (struct.error, ValueError):
                # Killed before its first series, or damaged; counts are not worth a replica that does not start.
                _log.warning("the counts in %s cannot be read: they are lost", path)
                values = []
            kept = MmapedDict(str(folder / f"{kind}_{_ENDED}.db"))  # type: ignore[no-untyped-call]
            for key, value, timestamp, _ in values:
                old, _ = kept.read_value(key)  # type: ignore[no-untyped-call]
                kept.write_value(key, old + value, timestamp)  # type: ignore[no-untyped-call]
            kept.close()  # type: ignore[no-untyped-call]
            with fault_point("metrics.fold"), suppress(FileNotFoundError):
                path.unlink()


def _left_behind(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob("*.db")):
        match = _FILE.fullmatch(path.name)
        if match and int(match[2]) not in (_ENDED, os.getpid()) and not psutil.pid_exists(int(match[2])):
            yield match[1], path
