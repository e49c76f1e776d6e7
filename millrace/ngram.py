"""What a language model must beat: the frequencies of short runs of bytes.

The chance of a byte after a run is how often it followed, mixed with its chance after the next shorter run, and so on
down to any byte alike. How much goes to the shorter one is Witten and Bell's estimate (1991; method C of prediction by
partial matching): after a run that c bytes followed, T of them different, T / (c + T). So the chances sum to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from millrace.errors import ConfigError
from millrace.texts import END, VOCABULARY, Tokens

#: A run of `order` bytes, the oldest first, as one number.
Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

_MAX_ORDER = 8
_BITS = 8
# Counting is a sort: of so many tokens at once, it is neither slow nor large.
_TOKENS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class _Runs:
    """Runs of one length that were seen, in order, and how often each was."""

    keys: Keys
    counts: NDArray[np.int64]

    def with_more(self, keys: Keys) -> _Runs:
        more, counts = np.unique(keys, return_counts=True)
        both = np.concatenate([self.keys, more])
        found, places = np.unique(both, return_inverse=True)
        sums = np.bincount(places, np.concatenate([self.counts, counts]), len(found))
        return _Runs(found, sums.astype(np.int64))

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        """Where the runs begin that share all but their last byte."""
        before = self.keys >> np.uint64(_BITS)
        return np.flatnonzero(np.concatenate([[True], before[1:] != before[:-1]]))

    @cached_property
    def _befores(self) -> tuple[Keys, Floats, Floats]:
        """What lies before a last byte; how many followed it, and how many different ones."""
        starts = self._starts
        kinds = np.diff(np.append(starts, len(self.keys))).astype(np.float64)
        return self.keys[starts] >> np.uint64(_BITS), np.add.reduceat(self.counts, starts).astype(np.float64), kinds

    def mix(self, keys: Keys, shorter: Floats) -> Floats:
        """The chance of the last byte of each key after those before it; `shorter`: after one byte less."""
        if not len(self.keys):
            return shorter
        befores, totals, kinds = self._befores
        place, known = _find(befores, keys >> np.uint64(_BITS))
        total, kind = np.where(known, totals[place], 0.0), np.where(known, kinds[place], 1.0)
        own, seen = _find(self.keys, keys)
        count = np.where(seen, self.counts[own], 0)
        chances: Floats = (count + kind * shorter) / (total + kind)
        return chances


def _find(ordered: Keys, keys: Keys) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """A place in `ordered` for each key, and whether it is there."""
    place = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    return place, ordered[place] == keys


class ByteNgram:
    """Chances of a byte after the `order` - 1 before it; of order 1, how frequent it is.

    Its memory grows with the runs that differ; `num_tokens` says how many tokens have been counted.

    Raises:
        ConfigError: no such order.
    """

    def __init__(self, order: int) -> None:
        if not 1 <= order <= _MAX_ORDER:
            raise ConfigError("an n-gram has no such order", got=order, allowed=f"1 to {_MAX_ORDER}")
        self.order, self.num_tokens = order, 0
        self._runs = [_Runs(np.empty(0, np.uint64), np.empty(0, np.int64))] * order
        self._pending: list[Keys] = []
        self._num_pending = 0

    def add(self, documents: Sequence[Tokens]) -> None:
        """Count the tokens of `documents`, uint8 [bytes + 1] each."""
        for document in documents:
            self._pending.append(self.keys(document))
            self._num_pending += len(document)
            self.num_tokens += len(document)
            if self._num_pending >= _TOKENS_AT_ONCE:
                self._count()

    def bits(self, documents: Sequence[Tokens]) -> Floats:
        """The bits in which each document is written down by these chances, float64 [documents]."""
        return np.array([-np.log2(self.chances(self.keys(document))).sum() for document in documents], np.float64)

    def chances(self, keys: Keys) -> Floats:
        """The chance of each key's last byte after those before it, float64 [keys]."""
        self._count()
        found = np.full(len(keys), 1.0 / VOCABULARY)
        for length, runs in enumerate(self._runs, 1):
            found = runs.mix(_shortened(keys, length), found)
        return found

    def keys(self, document: Tokens) -> Keys:
        """For each token of a document, the run that it ends; before the first there are ENDs, as in a stream."""
        padded = np.concatenate([np.full(self.order - 1, END, np.uint8), document]).astype(np.uint64)
        found = np.zeros(len(document), np.uint64)
        for place in range(self.order):
            found = (found << np.uint64(_BITS)) | padded[place : place + len(document)]
        return found

    def _count(self) -> None:
        if self._pending:
            keys = np.concatenate(self._pending)
            self._runs = [runs.with_more(_shortened(keys, length)) for length, runs in enumerate(self._runs, 1)]
            self._pending, self._num_pending = [], 0


def _shortened(keys: Keys, length: int) -> Keys:
    """The newest `length` bytes of each key."""
    return keys & np.uint64((1 << (_BITS * length)) - 1)
