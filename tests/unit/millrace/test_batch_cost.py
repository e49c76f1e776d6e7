"""What batches cost is learned, and never promised to be less than what was seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.batch_cost import BatchCost

_SECONDS = st.floats(1e-6, 1.0)


def learned(fixed: float, each: float, sizes: list[int]) -> BatchCost:
    cost = BatchCost()
    for rows in sizes:
        cost.observe(rows, fixed + each * rows)
    return cost


@given(fixed=_SECONDS, each=_SECONDS, sizes=st.lists(st.integers(1, 500), min_size=2, max_size=40))
def test_a_line_is_found(fixed: float, each: float, sizes: list[int]) -> None:
    cost = learned(fixed, each, [1, 256, *sizes])
    assert cost.seconds(100) == pytest.approx(fixed + 100 * each, rel=1e-3)


@given(observed=st.lists(st.tuples(st.integers(1, 1000), _SECONDS), min_size=1, max_size=60), rows=st.integers(1, 1000))
def test_neither_part_is_negative(observed: list[tuple[int, float]], rows: int) -> None:
    cost = BatchCost()
    for seen in observed:
        cost.observe(*seen)
    assert cost.fixed >= -1e-12
    assert cost.each >= 0
    assert cost.seconds(rows) <= cost.seconds(rows + 1)


@given(fixed=_SECONDS, each=_SECONDS, within=_SECONDS)
def test_rows_that_fit_are_the_most_that_do(fixed: float, each: float, within: float) -> None:
    cost = learned(fixed, each, [1, 256])
    rows = cost.rows_within(within)
    assert rows == 1 or cost.seconds(rows) <= within * (1 + 1e-6)
    assert rows == 1 << 16 or cost.seconds(rows + 1) > within * (1 - 1e-6)


def test_one_size_says_nothing_of_what_is_shared() -> None:
    cost = learned(0.01, 0.001, [1, 1, 1])
    assert cost.fixed == pytest.approx(0, abs=1e-9)
    assert cost.each == pytest.approx(0.011)


def test_a_model_that_becomes_slower_is_noticed() -> None:
    cost = learned(0.01, 0.001, [1, 32] * 100)
    for _ in range(300):
        for rows in (1, 32):
            cost.observe(rows, 0.03 + 0.001 * rows)
    assert cost.fixed == pytest.approx(0.03, rel=0.05)


def test_before_the_first_batch_nothing_is_known() -> None:
    assert BatchCost().seconds(10) == 0
    assert BatchCost().rows_within(0.1) == 1 << 16
