"""Threads and depth follow Little's law."""

from __future__ import annotations

from millrace.loader.tuning import Tuning


def tuned(fetch: float, shard: float) -> Tuning:
    tuning = Tuning(32, 4, 64)
    for _ in range(50):
        tuning.fetched(fetch)
        tuning.consumed(0.5, shard * 0.5)
    return tuning


def test_before_anything_is_known_as_much_as_is_allowed_is_read_ahead() -> None:
    assert (Tuning(32, 4, 64).threads, Tuning(32, 4, 64).depth) == (32, 64)


def test_slow_fetches_get_more_threads_and_depth() -> None:
    assert (tuned(1.0, 0.1).threads, tuned(1.0, 0.1).depth) == (15, 30)
    assert (tuned(0.001, 0.1).threads, tuned(0.001, 0.1).depth) == (2, 4)
    assert (tuned(9.0, 0.1).threads, tuned(9.0, 0.1).depth) == (32, 64)


def test_one_slow_fetch_is_remembered_in_the_depth() -> None:
    tuning = tuned(0.1, 0.1)
    tuning.fetched(2.0)
    assert tuning.depth >= 30
