"""Shards on this machine's disk, bounded in bytes, shared by the processes of the machine.

A shard is a file called by its digest. It is written under another name and renamed, so it is whole or absent. Who
uses it holds a shared lock on it, which the kernel lets go when the process dies; only what nobody holds is evicted,
least recently used first. The folder's own lock is held while room is made, so the bound holds for all processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import ServiceError, SettingsError
from millrace.faults import fault_point
from millrace.shards import Shard

_SUFFIX, _PARTIAL = ".shard", ".partial"
_POLL_SECONDS = 0.02


@dataclass
class Held:
    """A cached file that is not evicted before `release`."""

    path: Path
    descriptor: int

    def release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Cache:
    """At most `max_bytes` of shards in `folder`."""

    def __init__(self, folder: Path, max_bytes: int, *, wait_seconds: float = 60.0) -> None:
        if max_bytes < 1:
            raise SettingsError("the cache of shards has no room", got=max_bytes, allowed="1 or more", next="raise it")
        self.folder, self.max_bytes, self.wait_seconds = folder, max_bytes, wait_seconds
        folder.mkdir(parents=True, exist_ok=True)

    def hold(self, shard: Shard) -> Held | None:
        """The cached file of `shard`, held; None when it is not there."""
        path = self._path(shard)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        # It may have been evicted between the two.
        if os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)
            return None
        os.utime(descriptor)
        return Held(path, descriptor)

    def put(self, shard: Shard, content: bytes, is_urgent: Callable[[], bool] = lambda: True) -> Held:
        """Keep `content` as `shard`, held. What is not urgent waits for room without an end.

        Raises:
            ServiceError: what is held leaves no room for it while it is urgent, or the disk is full.
        """
        deadline = time.monotonic() + self.wait_seconds
        while True:
            if not is_urgent():
                deadline = time.monotonic() + self.wait_seconds
            with self._locked():
                if (held := self.hold(shard)) is not None:
                    return held
                if self._make_room(shard.num_bytes):
                    return self._write(shard, content)
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"the cache of shards in {self.folder} is full of shards in use",
                    got=f"{shard.num_bytes} bytes more",
                    allowed=f"{self.max_bytes} bytes in all",
                    next="raise its bound, or read fewer shards in a window",
                )
            time.sleep(_POLL_SECONDS)  # another process lets go of a shard without telling

    @contextlib.contextmanager
    def fetching(self, shard: Shard) -> Iterator[None]:
        """One process at a time fetches a shard: the others find it in the cache then."""
        with _flock(self.folder / f".{shard.sha256}.fetch"):
            yield

    def drop(self, shard: Shard) -> None:
        """Forget `shard`: its file is not what it should be. Who has it mapped keeps what they have."""
        self._path(shard).unlink(missing_ok=True)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files now, also of what is being written."""
        return sum(size for _, size, _ in self._files())

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}{_SUFFIX}"

    def _write(self, shard: Shard, content: bytes) -> Held:
        partial = self.folder / f"{shard.sha256}{_PARTIAL}"
        try:
            with fault_point("loader.cache"):
                partial.write_bytes(content)
                descriptor = os.open(partial, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                partial.rename(self._path(shard))
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise ServiceError(
                f"the cache of shards in {self.folder} cannot be written",
                got=str(error),
                next="make room on its disk, or correct its rights",
            ) from error
        return Held(self._path(shard), descriptor)

    def _make_room(self, wanted: int) -> bool:
        """Evict until `wanted` bytes fit; the folder's lock is held, so a partial file is a dead writer's."""
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total + wanted <= self.max_bytes and path.suffix != _PARTIAL:
                continue
            if _remove(path):
                total -= size
        return total + wanted <= self.max_bytes

    def _files(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in self.folder.iterdir():
            if path.suffix in {_SUFFIX, _PARTIAL}:
                with contextlib.suppress(FileNotFoundError):
                    about = path.stat()
                    found.append((about.st_mtime_ns, about.st_size, path))
        return found

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return _flock(self.folder / ".lock")


@contextlib.contextmanager
def _flock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove(path: Path) -> bool:
    """Delete the file unless somebody holds it. Whoever waits for its lock then sees that it has no name."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with fault_point("loader.evict"):
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
