"""Random ids in bulk: asking the system for a few random bytes at a time costs more than all else about an id."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_AT_ONCE = 256


class Ids(Generic[T]):
    """Ids made of `digits` hexadecimal digits each, from the system's random numbers.

    A generator that is seeded once would give the same ids in a forked process; here that one drops what it inherited.
    """

    def __init__(self, digits: int, make: Callable[[str], T]) -> None:
        self._digits, self._make = digits, make
        self._ready: list[T] = []
        os.register_at_fork(after_in_child=self._ready.clear)

    def new(self) -> T:
        """An id that nobody has been given before; from any thread."""
        while True:
            try:
                return self._ready.pop()
            except IndexError:
                size, make = self._digits, self._make
                text = os.urandom(_AT_ONCE * size // 2).hex()
                self._ready += [make(text[start : start + size]) for start in range(0, len(text), size)]


_REQUEST_IDS: Ids[str] = Ids(32, str)

#: A name for a request that came without one: 32 hexadecimal digits.
new_request_id = _REQUEST_IDS.new
