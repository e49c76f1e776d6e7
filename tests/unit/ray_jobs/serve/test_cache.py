"""Remembered answers: exact, bounded, forgotten in time, and nobody else's where customers share nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.serve.cache import AnswerCache


def batch(*rows: tuple[float, int]) -> dict[str, np.ndarray]:
    return {
        "numeric": np.asarray([[number] for number, _ in rows], np.float32),
        "categorical": np.asarray([[index] for _, index in rows], np.int64),
    }


def one(value: float) -> np.ndarray:
    return np.asarray(value, np.float32)


def test_an_answer_is_found_by_its_row() -> None:
    cache = AnswerCache(1_000_000, 60)
    first, second = cache.keys(batch((1.0, 2), (1.0, 3)), "")
    cache.keep(first, one(0.5))
    assert cache.find(first) == one(0.5)
    assert cache.find(second) is None
    assert (cache.hits, cache.misses) == (1, 1)


@given(st.tuples(st.floats(width=32), st.integers(0, 9)), st.tuples(st.floats(width=32), st.integers(0, 9)))
def test_rows_share_a_key_when_the_model_cannot_tell_them_apart(a: tuple[float, int], b: tuple[float, int]) -> None:
    cache = AnswerCache(1_000_000, 60)
    (first,), (second,) = cache.keys(batch(a), "x"), cache.keys(batch(b), "y")
    same_number = a[0] == b[0] or np.float32(a[0]).tobytes() == np.float32(b[0]).tobytes()
    assert (first == second) == (same_number and a[1] == b[1])


def test_customers_that_share_nothing_have_keys_of_their_own() -> None:
    cache = AnswerCache(1_000_000, 60, per_customer=True)
    assert cache.keys(batch((1.0, 2)), "acme") != cache.keys(batch((1.0, 2)), "globex")
    assert cache.keys(batch((1.0, 2)), "acme") == cache.keys(batch((1.0, 2)), "acme")


@given(st.lists(st.integers(0, 500), max_size=400))
def test_it_never_holds_more_than_it_may(asked: list[int]) -> None:
    cache = AnswerCache(10_000, 60)
    for number in asked:
        (key,) = cache.keys(batch((float(number), 0)), "")
        if cache.find(key) is None:
            cache.keep(key, one(number))
        assert cache.find(key) == one(number)
        assert cache.num_bytes <= 10_000


def test_an_old_answer_is_forgotten() -> None:
    now = [0.0]
    cache = AnswerCache(1_000_000, 60, clock=lambda: now[0])
    (key,) = cache.keys(batch((1.0, 2)), "")
    cache.keep(key, one(0.5))
    now[0] = 59.0
    assert cache.find(key) is not None
    now[0] = 61.0
    assert cache.find(key) is None
