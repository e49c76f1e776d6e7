"""The order of an epoch: a function of the set, the seed and the epoch alone, that can be asked for any place in it.

The shards are permuted; then the samples are permuted within windows of several shards, so that a window's shards are
read whole and once. A place's sample is computed, not looked up in a shuffled list: memory is a few numbers for each
shard, and to begin at any place costs nothing.

The permutation is a bijection on b-bit integers made of steps that are each one (an odd multiplier, an addition, a
xor with own high bits, all modulo 2**b), walked until it falls below the length (cycle walking, Black and Rogaway,
"Ciphers with arbitrary finite domains", 2002). It is defined here and not by numpy's generators, whose streams may
change between versions: a training that goes on after an upgrade must see the same order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_ROUNDS = 4


def permute(places: Indices, length: int, key: str) -> Indices:
    """What lies at `places` of the permutation of range(`length`) that `key` names."""
    if length <= 1:
        return np.zeros_like(places)
    bits = (length - 1).bit_length()
    found = _mix(places.astype(np.uint64), bits, key)
    while (outside := np.flatnonzero(found >= length)).size:
        found[outside] = _mix(found[outside], bits, key)
    return found.astype(np.int64)


def _mix(values: npt.NDArray[np.uint64], bits: int, key: str) -> npt.NDArray[np.uint64]:
    mask, shift = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    for multiplier, addend in _keys(key):
        values = (values * multiplier + addend) & mask
        values = values ^ (values >> shift)
    return values


@lru_cache(maxsize=64)
def _keys(key: str) -> tuple[tuple[np.uint64, np.uint64], ...]:
    raw = np.frombuffer(hashlib.shake_256(key.encode()).digest(16 * _ROUNDS), "<u8").reshape(_ROUNDS, 2)
    return tuple((multiplier | np.uint64(1), addend) for multiplier, addend in raw)


@dataclass(frozen=True)
class Order:
    """The order of one epoch.

    `shards` [s] are the set's shards as they come; `starts` [s + 1] where in the order the samples of each begin, were
    they not mixed within windows of `window` shards.
    """

    seed: int
    epoch: int
    window: int
    shards: Indices
    starts: Indices

    @classmethod
    def of(cls, num_samples: Indices, *, seed: int, epoch: int, window: int) -> Order:
        """The order of `epoch` over shards of `num_samples` [s]."""
        shards = permute(np.arange(len(num_samples)), len(num_samples), f"{seed}/{epoch}/shards")
        return cls(seed, epoch, window, shards, np.concatenate([[0], np.cumsum(num_samples[shards])]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def window_of(self, place: int) -> int:
        """The window that `place` of the order lies in."""
        return (int(np.searchsorted(self.starts, place, "right")) - 1) // self.window

    def take(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """At places `start` to `stop`: each sample's place in `shards` and its row there, [stop - start] each."""
        slots, rows = [], []
        while start < stop:
            window = self.window_of(start)
            first = window * self.window
            last = min(first + self.window, len(self.shards))
            begin, end = int(self.starts[first]), int(self.starts[last])
            upto = min(stop, end)
            key = f"{self.seed}/{self.epoch}/window/{window}"
            place = permute(np.arange(start - begin, upto - begin), end - begin, key) + begin
            slot = np.searchsorted(self.starts[first : last + 1], place, "right") - 1 + first
            slots.append(slot)
            rows.append(place - self.starts[slot])
            start = upto
        return np.concatenate(slots), np.concatenate(rows)
