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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from millrace.errors import OverloadedError, TooManyRequestsError
from millrace.faults import fault_point
from millrace.settings import Settings
from ray_jobs.serve.replicas import ReplicaCounts

_log = logging.getLogger(__name__)

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

#: Seconds; from what a small table model takes to what a caller no longer waits for.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Customers with a series of their own in each process; later ones are counted together as `other`.
MAX_CUSTOMERS = 100
OTHER = "other"

#: Rows.
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

#: How a request ended, by its status; one of a customer that asked too often, and one that would have been late.
OUTCOMES = {2: "answered", 4: "refused", 5: "failed"}
LIMITED = "limited"
OVERLOADED = "overloaded"

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
    _series: dict[tuple[str, str, str], tuple[Any, Any, Any]] = field(default_factory=dict, init=False)
    _batches: dict[str, tuple[Any, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        _count_in_files(self.folder)
        fold(self.folder)

    def count(self, version: str, customer: str, outcome: str, num_rows: int, seconds: float) -> None:
        """One request for predictions that has ended; `seconds` is from its first byte to its answer."""
        requests, rows, duration = self._of(version, customer, outcome)
        requests.inc()
        if num_rows:
            rows.inc(num_rows)
        duration.observe(seconds)

    def count_limited(self, customer: str, count: int) -> None:
        """So many requests of a customer that asks too often never got here."""
        self._of("", customer, LIMITED)[0].inc(count)

    def _of(self, version: str, customer: str, outcome: str) -> tuple[Any, Any, Any]:
        key = (version, customer, outcome)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._bound(version, self._known(customer), outcome)
        return series

    def count_batch(self, version: str, waited: float, batch_rows: int, cached_rows: int) -> None:
        """How one answered request was executed: the seconds it waited for its batch, the rows of that batch, and how
        many of its own rows were answered without the model."""
        series = self._batches.get(version)
        if series is None:
            series = self._batches[version] = tuple(
                each.labels(self.pipeline, version) for each in self._batch_instruments
            )
        wait, rows, cached = series
        wait.observe(waited)
        rows.observe(batch_rows)
        if cached_rows:
            cached.inc(cached_rows)

    def text(self, replicas: ReplicaCounts | None = None, shares: Mapping[str, float] | None = None) -> bytes:
        """The series of all replicas, in Prometheus' text format; and how many `replicas` there are and the `shares` of
        the versions, where known."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        with FileLock(self.folder / ".lock"):
            # A file is empty for the moment between its making and its first series.
            files = [str(path) for path in self.folder.glob("*.db") if path.stat().st_size]
            registry.register(_Merged(MultiProcessCollector.merge(files)))  # type: ignore[no-untyped-call]
            registry.register(_Merged(_gauges(self.pipeline, replicas, shares or {})))
            return bytes(generate_latest(registry))

    @cached_property
    def _registry(self) -> Any:
        from prometheus_client import CollectorRegistry

        return CollectorRegistry()

    @cached_property
    def _batch_instruments(self) -> tuple[Any, Any, Any]:
        from prometheus_client import Counter, Histogram

        which, registry = ("pipeline", "version"), self._registry
        return (
            Histogram(
                "millrace_wait_seconds",
                "Seconds that an answered request waited for its batch.",
                which,
                buckets=BUCKETS,
                registry=registry,
            ),
            Histogram(
                "millrace_batch_rows",
                "Rows of the batch in which an answered request was executed.",
                which,
                buckets=BATCH_BUCKETS,
                registry=registry,
            ),
            Counter("millrace_cached_rows", "Rows that were answered without the model.", which, registry=registry),
        )

    @cached_property
    def _instruments(self) -> tuple[Any, Any, Any]:
        from prometheus_client import Counter, Histogram

        registry = self._registry
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

    def _bound(self, version: str, customer: str, outcome: str) -> tuple[Any, Any, Any]:
        requests, rows, duration = self._instruments
        who = (self.pipeline, version, customer, outcome)
        return requests.labels(*who), rows.labels(*who), duration.labels(self.pipeline, version, outcome)

    def _known(self, customer: str) -> str:
        if customer not in self._customers and len(self._customers) >= MAX_CUSTOMERS:
            return OTHER
        self._customers.add(customer)
        return customer


@dataclass(frozen=True)
class ShadowMetrics:
    """What the process of a shadow counts, beside the replicas in their `folder`, so that any of them tells it.

    It folds nothing: it runs where a core would be idle, and who waits for the folder's lock would wait for that.
    """

    pipeline: str
    folder: Path

    def __post_init__(self) -> None:
        _count_in_files(self.folder)

    def count(self, version: str, outcome: str) -> None:
        """One mirrored request."""
        self._requests.labels(self.pipeline, version, outcome).inc()

    @cached_property
    def _requests(self) -> Any:
        from prometheus_client import CollectorRegistry, Counter

        which = ("pipeline", "version", "outcome")
        return Counter("millrace_shadow_requests", "Mirrored requests.", which, registry=CollectorRegistry())


def metrics_folder(settings: Settings, pipeline_name: str) -> Path:
    """Folder of a pipeline's counts. Each host has its own below it, as which processes live is known there only."""
    return settings.state / "metrics" / pipeline_name


def outcome_of(status: int, error: Exception | None) -> str:
    """How a request ended that was answered with `status`, because of `error` if there was one."""
    if isinstance(error, OverloadedError):
        return OVERLOADED
    return LIMITED if status == TooManyRequestsError.http_status else OUTCOMES[status // 100]


@dataclass(frozen=True, eq=False)
class _Merged:
    """Series that are there already, as a registry wants them."""

    series: Any

    def collect(self) -> Any:
        return self.series


def _gauges(pipeline: str, replicas: ReplicaCounts | None, shares: Mapping[str, float]) -> list[Any]:
    """What is so just now and the same whichever process is asked: it counts nothing, and needs no file of each."""
    from prometheus_client.core import GaugeMetricFamily

    share = GaugeMetricFamily(
        "millrace_traffic_share", "Share of the requests that a version answers.", labels=("pipeline", "version")
    )
    for version, value in sorted(shares.items()):
        share.add_metric((pipeline, version), value)
    if replicas is None:
        return [share]
    told = {
        "wanted": ("Replicas that there are to be: as the spec says, or as the load asks for.", replicas.wanted),
        "running": ("Replicas that answer.", replicas.running),
    }
    found = [share]
    for name, (about, count) in told.items():
        gauge = GaugeMetricFamily(f"millrace_replicas_{name}", about, labels=["pipeline"])
        gauge.add_metric([pipeline], count)
        found.append(gauge)
    return found


def _count_in_files(folder: Path) -> None:
    """Have this process count in files in `folder`. Where somebody has imported the client before us, it has decided to
    count in memory: tell it otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[_FOLDER] = str(folder)
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
