"""The stages of a request are all of it, whatever happened in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.traces.records import NEVER, STAGES, Record
from tests.unit.millrace.traces.material import block_of, record, records


@given(st.lists(records(), min_size=1, max_size=20))
def test_the_stages_cover_each_request(found: list[Record]) -> None:
    block = block_of(found, 1_700_000_000.0)
    assert block.stages.shape == (len(STAGES), len(found))
    assert (block.stages >= 0).all()
    assert (block.stages.sum(axis=0) == block.durations).all()
    for index, one in enumerate(found):
        seconds = one.done - one.started
        # To the microsecond, of any duration; that is 99 % and more of whatever takes 100 µs.
        assert abs(block.stages[:, index].sum() - seconds * 1e6) <= 0.51
        missing = [stage for stage, name in enumerate(Record._fields[10:16]) if getattr(one, name) == NEVER]
        assert (block.stages[missing, index] == 0).all()
        assert not block.reached[missing, index].any()


def test_times_are_of_the_clock_and_whole_microseconds() -> None:
    block = block_of([record(0.001, 0.0015, 0.0016, 0.0056, 0.006, 0.007)], 1_700_000_000.0)
    assert block.started_at.tolist() == [1_700_000_010_000_000]
    assert block.stages[:, 0].tolist() == [1000, 500, 100, 4000, 400, 1000]
    assert block.durations.tolist() == [7000]


@pytest.mark.parametrize(
    ("moments", "stages"),
    [
        # Refused by the door or the contract.
        ((NEVER, NEVER, NEVER, NEVER, NEVER, 0.002), [2000, 0, 0, 0, 0, 0]),
        # Refused when its batch was taken, as it would have been late.
        ((0.001, 0.003, NEVER, NEVER, 0.004, 0.005), [1000, 2000, 1000, 0, 0, 1000]),
        # The model raised.
        ((0.001, 0.002, 0.003, 0.004, 0.005, 0.006), [1000] * 6),
    ],
)
def test_a_request_that_stopped_somewhere_took_its_time_there(moments: tuple[float, ...], stages: list[int]) -> None:
    assert block_of([record(*moments)], 0.0).stages[:, 0].tolist() == stages
