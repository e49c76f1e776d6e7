"""The shards at hand: those of the window in use, mapped, and those that the next ones need, fetched ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from millrace.errors import MillraceError, ServiceError
from millrace.loader.cache import Cache, Held
from millrace.loader.fetch import Fetcher, check, missing
from millrace.loader.tuning import Tuning
from millrace.shards import MappedShard, Shard


class ShelfClosedError(Exception):
    """The shelf was closed while somebody waited for it."""


@dataclass
class Opened:
    shard: MappedShard
    held: Held | None

    def release(self) -> None:
        if self.held is not None:
            self.held.release()


class Shelf:
    """Shards by their turn: turn t is the t-th shard since the training's beginning, epoch after epoch.

    `shard_at` says which shard has a turn, None after the last. `need` moves on; `get` waits. At most `most_shards` are
    held or fetched at a time, in their turns, so that one fetched ahead never takes the room of one that is needed.
    """

    def __init__(
        self,
        shard_at: Callable[[int], Shard | None],
        fetcher: Fetcher,
        cache: Cache | None,
        tuning: Tuning,
        most_shards: int,
    ) -> None:
        self._most_shards = most_shards
        self._shard_at, self._fetcher, self._cache, self._tuning = shard_at, fetcher, cache, tuning
        self._changed = threading.Condition()
        self._open: dict[int, Opened | BaseException] = {}
        self._checked: set[str] = set()
        self._first = self._next = self._last = 0
        self._running = self._num_threads = 0
        self._closed = False

    def need(self, first: int, last: int) -> None:
        """Turns `first` to `last` are in use now; those before are let go."""
        with self._changed:
            self._first, self._last = first, max(self._last, last)
            self._next = max(self._next, first)
            gone = [self._open.pop(turn) for turn in list(self._open) if turn < first]
            self._changed.notify_all()
        _release(gone)
        while self._num_threads < self._tuning.threads and not self._closed:
            self._num_threads += 1
            threading.Thread(target=self._work, name="shards", daemon=True).start()

    def get(self, turn: int) -> MappedShard:
        """The shard whose turn it is.

        Raises:
            ShelfClosedError: nobody waits for it any more.
            MillraceError: as of `Fetcher.fetch`; also for a file that lies here already.
        """
        with self._changed:
            self._changed.wait_for(lambda: turn in self._open or self._closed)
            if self._closed:
                raise ShelfClosedError
            found = self._open[turn]
        if isinstance(found, BaseException):
            raise found
        return found.shard

    def close(self) -> None:
        with self._changed:
            self._closed = True
            gone = list(self._open.values())
            self._open.clear()
            self._changed.notify_all()
        _release(gone)

    def _work(self) -> None:
        while (turn := self._take()) is not None:
            shard = self._shard_at(turn)
            assert shard is not None  # noqa: S101 - _take gave this turn because it has one
            found: Opened | BaseException
            try:
                found = self._opened(shard, turn)
            except BaseException as error:  # noqa: BLE001 - it is raised where the shard is waited for
                found = error
            with self._changed:
                self._running -= 1
                is_late = self._closed or turn < self._first
                if not is_late:
                    self._open[turn] = found
                self._changed.notify_all()
            if is_late:
                _release([found])

    def _take(self) -> int | None:
        """The next turn to fetch, when it is time to; None when the shelf is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_due())
            if self._closed:
                return None
            turn, self._next, self._running = self._next, self._next + 1, self._running + 1
            return turn

    def _is_due(self) -> bool:
        return (
            self._running < self._tuning.threads
            and self._next <= self._last + self._tuning.depth
            and self._next < self._first + self._most_shards
            and self._shard_at(self._next) is not None
        )

    def _opened(self, shard: Shard, turn: int) -> Opened:
        local = self._fetcher.source.local_path(shard)
        began = time.monotonic()
        if local is not None:
            opened = self._mapped(shard, local, None)
        elif self._cache is None:
            raise ServiceError("a store that is not on this machine needs a cache", next="give Loader(cache=...)")
        else:
            opened = self._cached(self._cache, shard, turn)
        self._tuning.fetched(time.monotonic() - began)
        return opened

    def _cached(self, cache: Cache, shard: Shard, turn: int) -> Opened:
        for _ in range(2):
            held = cache.hold(shard)
            if held is None:
                with cache.fetching(shard):
                    held = cache.hold(shard) or self._fetched(cache, shard, turn)
            try:
                return self._mapped(shard, held.path, held)
            except MillraceError:
                held.release()
                cache.drop(shard)  # its disk failed, or its machine while it was written; it is fetched anew
        held = self._fetched(cache, shard, turn)
        return self._mapped(shard, held.path, held)

    def _fetched(self, cache: Cache, shard: Shard, turn: int) -> Held:
        content = self._fetcher.fetch(shard)
        self._checked.add(shard.sha256)
        return cache.put(shard, content, lambda: turn <= self._last or self._closed)

    def _mapped(self, shard: Shard, path: Path, held: Held | None) -> Opened:
        """Its bytes are checked the first time that this process meets them; that also brings them into memory."""
        if not path.exists():
            raise missing(self._fetcher.source, shard)
        if shard.sha256 not in self._checked or path.stat().st_size != shard.num_bytes:
            with path.open("rb") as file:
                check(self._fetcher.source, shard, file)
            self._checked.add(shard.sha256)
        return Opened(MappedShard(path), held)


def _release(opened: list[Opened | BaseException]) -> None:
    for one in opened:
        if isinstance(one, Opened):
            one.release()
