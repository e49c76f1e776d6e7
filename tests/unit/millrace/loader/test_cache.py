"""The cache: bounded, shared, and nothing in use is evicted."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import ServiceError
from millrace.loader import Cache
from millrace.shards import Shard


def shard(name: str, size: int = 10) -> Shard:
    return Shard(name, 1, size, name * 8)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 30)
    for name in "abc":
        cache.put(shard(name), b"0" * 10).release()
    cache.hold(shard("a")).release()
    cache.put(shard("d"), b"0" * 10).release()
    assert cache.hold(shard("b")) is None
    held = cache.hold(shard("a"))
    assert held.path.read_bytes() == b"0" * 10
    held.release()


def test_what_is_held_stays_also_for_another_user_of_the_folder(tmp_path: Path) -> None:
    held = Cache(tmp_path, 20).put(shard("a"), b"0" * 10)
    other = Cache(tmp_path, 20, wait_seconds=0.05)
    with pytest.raises(ServiceError, match="full of shards in use"):
        other.put(shard("b", 20), b"0" * 20)
    held.release()
    other.put(shard("b", 20), b"0" * 20).release()
    assert other.hold(shard("a")) is None
    assert other.num_bytes == 20


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "dead.partial").write_bytes(b"0" * 15)
    cache = Cache(tmp_path, 20)
    cache.put(shard("a"), b"0" * 10).release()
    assert cache.num_bytes == 10
