"""Answers that were given before: exact, by the encoded row, for one version, bounded in bytes and age."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray

#: What a kept row costs beside its key and its answer: their objects, and its places in the cache's tables.
_OVERHEAD_BYTES = 600

Answer = NDArray[np.float32]


class AnswerCache:
    """The answers of one version to single rows. It goes with the version, so an answer is never another one's.

    Each replica has its own: asking another process takes about as long as a small table model
    (docs/decisions/0017-request-path.md).
    """

    def __init__(
        self,
        max_bytes: int,
        ttl_seconds: float,
        per_customer: bool = False,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._per_customer = per_customer
        self._kept: TTLCache[bytes, Answer] = TTLCache(max_bytes, ttl_seconds, timer=clock, getsizeof=_num_bytes)
        self.hits = 0
        self.misses = 0

    @property
    def num_bytes(self) -> int:
        """What it holds, about."""
        return int(self._kept.currsize)

    def keys(self, batch: Mapping[str, NDArray[Any]], customer: str) -> list[bytes]:
        """What names each row of an encoded batch: its bytes, and whose it is where customers share nothing."""
        owner = f"{customer}\0".encode() if self._per_customer else b""
        numeric, categorical = batch["numeric"] + np.float32(0.0), batch["categorical"]  # -0.0 is 0.0
        return [owner + a.tobytes() + b.tobytes() for a, b in zip(numeric, categorical, strict=True)]

    def find(self, key: bytes) -> Answer | None:
        """The answer to the row, float32 [outputs] or a number's [], or None."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def keep(self, key: bytes, answer: Answer) -> None:
        """Remember an answer; those that nobody has asked for the longest make room."""
        self._kept[key] = answer


def _num_bytes(answer: Answer) -> int:
    return answer.nbytes + _OVERHEAD_BYTES
