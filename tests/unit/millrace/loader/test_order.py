"""The order of an epoch is a permutation, whatever the sizes, and any part of it can be asked for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millrace.loader.order import Order, permute

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(length=st.integers(1, 3000), key=st.text(max_size=8))
def test_a_permutation_hits_each_place_once(length: int, key: str) -> None:
    assert sorted(permute(np.arange(length), length, key)) == list(range(length))


def test_the_permutation_is_the_same_in_every_version() -> None:
    assert permute(np.arange(10), 10, "1/0/shards").tolist() == [2, 7, 8, 9, 3, 4, 6, 1, 5, 0]


@given(sizes=SIZES, seed=st.integers(0, 9), epoch=st.integers(0, 9), window=st.integers(1, 8))
def test_every_sample_comes_once_and_its_window_before_the_next_one(
    sizes: list[int], seed: int, epoch: int, window: int
) -> None:
    order = Order.of(np.array(sizes), seed=seed, epoch=epoch, window=window)
    slots, rows = order.take(0, len(order))
    shards = order.shards[slots]
    assert sorted(zip(shards.tolist(), rows.tolist(), strict=True)) == [
        (shard, row) for shard, size in enumerate(sizes) for row in range(size)
    ]
    assert (np.diff(slots // window) >= 0).all()


@given(sizes=SIZES, cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_part_is_what_the_whole_has_there(sizes: list[int], cuts: tuple[float, float]) -> None:
    order = Order.of(np.array(sizes), seed=3, epoch=1, window=3)
    start, stop = sorted(int(cut * len(order)) for cut in cuts)
    if start == stop:
        return
    whole, part = order.take(0, len(order)), order.take(start, stop)
    assert all((a[start:stop] == b).all() for a, b in zip(whole, part, strict=True))


def test_neighbours_are_scattered() -> None:
    place = permute(np.arange(100_000), 100_000, "7/0/window/0")
    assert abs(np.corrcoef(place[:-1], place[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(100_000), place)[0, 1]) < 0.02
    # A batch of 500 falls on 20 bins as a random one does: chi-square with 19 degrees of freedom, mean 19.
    statistics = [
        ((np.bincount(batch * 20 // 100_000, minlength=20) - 25) ** 2 / 25).sum() for batch in np.split(place, 200)
    ]
    assert 16 < float(np.mean(statistics)) < 22


def test_epochs_and_seeds_differ() -> None:
    sizes = np.full(10, 10)
    orders = {
        tuple(Order.of(sizes, seed=seed, epoch=epoch, window=4).take(0, 100)[1].tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9
