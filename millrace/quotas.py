"""How many requests a customer may have answered in a day (UTC): one count for all replicas, in a file that they share.

A replica takes some requests off the count in advance and answers from what it took, so most requests cost no look at
the file. Whatever happens to a replica, all of them together never answer more than the quota. What one that was killed
had taken and not used is lost to the customer until midnight: at most `MOST_TAKEN`, and a hundredth of what was left.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from millrace.errors import ConfigError, ServiceError
from millrace.faults import fault_point
from millrace.settings import Settings

_log = logging.getLogger(__name__)

#: Requests that a replica takes at once: not more, and not more than this part of what is left.
MOST_TAKEN = 32
PARTS = 100
#: Days after which a count is removed.
KEPT_DAYS = 32

DAY_SECONDS = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
#: Who holds the lock of a count needs microseconds. One that was frozen meanwhile must not freeze the others.
_LOCK_TRIES = 20
_LOCK_PAUSE_SECONDS = 0.0005
_DIGITS = 20


def usage_folder(settings: Settings, pipeline_name: str) -> Path:
    """Folder of the pipeline's counts."""
    return settings.state / "usage" / pipeline_name


def checked_quota(quota: Any) -> int:
    """A quota, as given.

    Raises:
        ConfigError: it is not above 0.
    """
    if isinstance(quota, bool) or not isinstance(quota, int) or quota < 1:
        raise ConfigError("this is no quota", got=quota, allowed="a whole number of requests a day, at least 1")
    return quota


def day_of(seconds: float) -> date:
    """The day in UTC of a moment, given in seconds since 1970."""
    return date.fromordinal(_EPOCH + int(seconds // DAY_SECONDS))


@dataclass(frozen=True)
class Usage:
    """The counts of one pipeline: a file for each day and customer, a number in it. Any number of processes may count.

    The file system must have locks, and all replicas must share it. No fsync: a power cut may lose the day's counts,
    and a count that cannot be read begins anew.
    """

    folder: Path

    def take(self, customer: str, day: date, quota: int) -> int:
        """Count some requests of `customer` as asked; how many, and 0 when its `quota` of the day is used up.

        Raises:
            ServiceError: the disk refuses it, or who counts at this moment does not end.
        """
        with self._locked(customer, day) as fd:
            used = _read(fd)
            count = min(MOST_TAKEN, math.ceil(max(0, quota - used) / PARTS))
            if count:
                with fault_point("quota.take"):
                    _write(fd, used + count)
        return count

    def give_back(self, customer: str, day: date, count: int) -> None:
        """Count requests that were taken as not asked.

        Raises:
            ServiceError: as `take`.
        """
        with self._locked(customer, day) as fd, fault_point("quota.give_back"):
            _write(fd, max(0, _read(fd) - count))

    def used(self, day: date) -> dict[str, int]:
        """The requests of a day by customer, with those that replicas have taken in advance."""
        found = {}
        for path in sorted((self.folder / day.isoformat()).glob("*")):
            with path.open("rb") as file:
                found[path.name] = _read(file.fileno())
        return found

    @contextmanager
    def _locked(self, customer: str, day: date) -> Iterator[int]:
        try:
            fd = self._open(customer, day)
            try:
                _lock(fd)
                yield fd
            finally:
                os.close(fd)
        except OSError as error:
            raise ServiceError(
                f"the requests of customer {customer} cannot be counted",
                got=f"{type(error).__name__}: {error.strerror}",
                next=f"look at the disk of {self.folder}",
            ) from error

    def _open(self, customer: str, day: date) -> int:
        path = self.folder / day.isoformat() / customer
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_before(day)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o640)

    def _remove_before(self, day: date) -> None:
        oldest = date.fromordinal(day.toordinal() - KEPT_DAYS).isoformat()
        for path in self.folder.iterdir():
            if path.name < oldest:
                with fault_point("quota.clean"):
                    shutil.rmtree(path, ignore_errors=True)


def usage_of_day(settings: Settings, day: date) -> dict[str, dict[str, int]]:
    """The counts of a day by pipeline and customer, where there are any."""
    folders = sorted((settings.state / "usage").glob("*"))
    found = {folder.name: Usage(folder).used(day) for folder in folders}
    return {name: counts for name, counts in found.items() if counts}


@dataclass(slots=True)
class _Taken:
    """What this process may still answer of what it took."""

    day: date
    left: int


@dataclass
class Quotas:
    """Counts the requests of one process on what all of them may have. Who has no quota of its own has `default`; None
    is no quota, and is not counted. `clock` gives seconds since 1970.
    """

    usage: Usage
    default: int | None = None
    quotas: Mapping[str, int] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    _taken: dict[str, _Taken] = field(default_factory=dict, init=False)

    def of(self, customer: str) -> int | None:
        """The quota of a customer."""
        return self.quotas.get(customer, self.default)

    def wait_of(self, customer: str) -> float:
        """0 when `customer` may ask now, which counts; else the seconds until its next day begins.

        Raises:
            ServiceError: it cannot be counted.
        """
        quota = self.of(customer)
        if quota is None:
            return 0.0
        now = self.clock()
        day = day_of(now)
        taken = self._taken.get(customer)
        if taken is None or taken.day != day or not taken.left:
            # Nothing is kept of who may not ask: the next request looks again, as the quota may be another by then.
            taken = self._taken[customer] = _Taken(day, self.usage.take(customer, day, quota))
            if not taken.left:
                return DAY_SECONDS - now % DAY_SECONDS
        taken.left -= 1
        return 0.0

    def forgive(self, customer: str) -> None:
        """The newest request of `customer` does not count."""
        taken = self._taken.get(customer)
        if taken is not None and taken.day == day_of(self.clock()):
            taken.left += 1

    def close(self) -> None:
        """Give back what was taken and not used. This process counts anew when it is asked again."""
        taken, self._taken = self._taken, {}
        for customer, each in taken.items():
            if each.left:
                try:
                    self.usage.give_back(customer, each.day, each.left)
                except ServiceError as error:
                    # It is as if this process had been killed.
                    _log.warning("%s", error)


def _lock(fd: int) -> None:
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return
    raise TimeoutError(0, "another process holds the count")


def _read(fd: int) -> int:
    content = os.pread(fd, _DIGITS, 0)
    try:
        return int(content or b"0")
    except ValueError:
        _log.warning("a count of requests is damaged, and begins anew")
        return 0


def _write(fd: int, count: int) -> None:
    # Of one width, in one call: a process that is killed leaves the old number or the new one.
    os.pwrite(fd, f"{count:0{_DIGITS}d}".encode(), 0)
