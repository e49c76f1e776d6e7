"""A store of shards that resets, truncates, corrupts, stalls and loses: a double of an object store."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from millrace.shards import Shard
from millrace.storage import ObjectStore

#: What a read does: given the shard's key and how often it was read before.
Fault = Callable[[str, int], str]


class FaultySource:
    """Reads of `store` that each go as `fault` says: ok, reset, 503, short, corrupt, missing or stall."""

    url = "faulty://store"

    def __init__(self, store: ObjectStore, fault: Fault = lambda key, count: "ok", seconds: float = 0.0) -> None:
        self.store, self.fault, self.seconds = store, fault, seconds
        self.reads: Counter[str] = Counter()
        self.released = threading.Event()
        self._lock = threading.Lock()

    def local_path(self, shard: Shard) -> Path | None:
        return None

    def read(self, shard: Shard) -> bytes:
        with self._lock:
            count, self.reads[shard.key] = self.reads[shard.key], self.reads[shard.key] + 1
        match self.fault(shard.key, count):
            case "reset":
                raise ConnectionResetError("connection reset by peer")
            case "503":
                raise OSError("503 Slow Down")
            case "missing":
                raise FileNotFoundError(shard.key)
            case "short":
                return self.store.read(shard.key)[: shard.num_bytes // 2]
            case "corrupt":
                return bytes(shard.num_bytes)
            case "stall":
                self.released.wait(60)
                raise TimeoutError("the read was let go")
            case _:
                if self.seconds:
                    time.sleep(self.seconds)  # the latency that is played
                return self.store.read(shard.key)
