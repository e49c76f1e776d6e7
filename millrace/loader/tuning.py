"""How far ahead the loader reads and with how many threads: by Little's law, from what it measures."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field


@dataclass
class Tuning:
    """Threads = fetch seconds / seconds a shard lasts; depth = the slowest fetch remembered / seconds a shard lasts.

    A shard must be here before it is needed also when its fetch is the slowest. `most_threads` and `most_depth` (in
    shards) bound both; `least_depth` is a window, which must be whole when it begins.
    """

    most_threads: int
    least_depth: int
    most_depth: int
    fetch_seconds: float = 0.0
    slowest_seconds: float = 0.0
    shard_seconds: float = math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fetched(self, seconds: float) -> None:
        """A shard took `seconds` to come."""
        with self._lock:
            self.fetch_seconds += (seconds - self.fetch_seconds) * (0.2 if self.fetch_seconds else 1.0)
            # The slowest is forgotten by halves over some fifty fetches.
            self.slowest_seconds = max(seconds, self.slowest_seconds * 0.986)

    def consumed(self, shards: float, busy_seconds: float) -> None:
        """The trainer took batches worth `shards` and was busy with them for `busy_seconds`, its waiting left out."""
        if shards > 0:
            with self._lock:
                seconds = busy_seconds / shards
                known = math.isfinite(self.shard_seconds)
                self.shard_seconds = 0.95 * self.shard_seconds + 0.05 * seconds if known else seconds

    @property
    def threads(self) -> int:
        """Fetches at a time: 1.5 of what keeps up."""
        return self._bounded(1.5 * self.fetch_seconds, 2, self.most_threads)

    @property
    def depth(self) -> int:
        """Shards to have fetched or under way beyond the window in use."""
        return self._bounded(1.5 * (self.slowest_seconds + self.fetch_seconds), self.least_depth, self.most_depth)

    def _bounded(self, seconds: float, least: int, most: int) -> int:
        if not math.isfinite(self.shard_seconds):  # nothing is known before the first step: as fast as allowed
            return most
        return max(min(least, most), min(most, math.ceil(seconds / max(self.shard_seconds, 1e-6))))
