"""An object store that resets, answers 5xx, keeps or gives half, writes twice, and kills its caller."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from millrace.storage import Content, Entry, ObjectStore

FAULTS = ("reset", "busy", "lost", "half", "twice", "die before", "die after")

T = TypeVar("T")


class Killed(BaseException):
    """The end of a process: nothing may catch it to tidy up."""


class HostileStore(ObjectStore):
    """Asks `faults` before each call of the store which of FAULTS strikes, if any; counts them in `struck`."""

    def __init__(self, url: str, faults: Iterator[str | None]) -> None:
        super().__init__(url)
        self._faults = faults
        self.struck: dict[str, int] = {}

    def _put(self, key: str, path: str, content: Content) -> Entry:
        assert not isinstance(content, Path)
        whole = content if isinstance(content, bytes) else b"".join(content)

        def half() -> None:
            super(HostileStore, self)._put(key, path, whole[: len(whole) // 2])

        return self._meet(lambda: super(HostileStore, self)._put(key, path, content), half)

    def _create(self, key: str, content: bytes) -> bool:
        return self._meet(lambda: super(HostileStore, self)._create(key, content), None)

    def _remove(self, prefix: str) -> None:
        self._meet(lambda: super(HostileStore, self)._remove(prefix), None)

    def _cat(self, key: str, max_bytes: int) -> bytes:
        try:
            return self._meet(lambda: super(HostileStore, self)._cat(key, max_bytes), None)
        except (ConnectionError, TimeoutError) as error:
            raise self._away(error) from error

    def _meet(self, work: Callable[[], T], half: Callable[[], None] | None) -> T:
        fault = next(self._faults, None)
        if fault is not None:
            self.struck[fault] = self.struck.get(fault, 0) + 1
        if fault == "reset":
            raise ConnectionResetError("reset by peer")
        if fault == "busy":
            raise TimeoutError(errno.ETIMEDOUT, "503 slow down")
        if fault == "die before":
            raise Killed
        if fault == "half" and half is not None:
            half()
            raise ConnectionError("half of the bytes were kept")
        result = work()
        if fault == "twice":
            work()
        if fault == "lost":
            raise ConnectionResetError("the answer was lost")
        if fault == "die after":
            raise Killed
        return result


def at_random(rng: random.Random, share: float) -> Iterator[str | None]:
    """A fault in `share` of the calls, evenly of each kind."""
    while True:
        yield rng.choice(FAULTS) if rng.random() < share else None
