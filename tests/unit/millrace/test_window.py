"""Windows are half-open, in UTC, and calendar cuts lose no moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from millrace.window import Period, Window, label, newest_full, period_end, period_start, utc

zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))])
moments = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=zones)
periods: st.SearchStrategy[Period] = st.sampled_from(["day", "week", "month"])


def windows(longest: timedelta) -> st.SearchStrategy[Window]:
    lengths = st.timedeltas(timedelta(microseconds=1), longest)
    return st.builds(lambda start, length: Window(start, utc(start) + length), moments, lengths)


@given(window=windows(timedelta(days=100)), period=periods)
@settings(max_examples=100, deadline=None)
def test_split_partitions_exactly_at_calendar_boundaries(window: Window, period: Period) -> None:
    pieces = list(window.split(period))
    assert pieces[0].start == window.start
    assert pieces[-1].end == window.end
    assert all(one.end == two.start for one, two in pairwise(pieces))
    for piece in pieces[1:]:
        assert piece.start == period_start(piece.start, period)
    for piece in pieces:
        assert piece.end <= period_end(piece.start, period), "no piece crosses a boundary"


@given(moment=moments, period=periods)
@settings(max_examples=100, deadline=None)
def test_a_moment_lies_in_its_own_period(moment: datetime, period: Period) -> None:
    start, end = period_start(moment, period), period_end(moment, period)
    assert moment in Window(start, end)
    assert period_start(end, period) == end
    assert period_start(end - timedelta(microseconds=1), period) == start
    if period == "week":
        assert start.weekday() == 0
        assert end - start == timedelta(days=7)
    if period == "month":
        assert start.day == end.day == 1


@given(moment=moments, period=periods)
@settings(max_examples=50, deadline=None)
def test_the_newest_full_period_has_ended_and_the_next_has_not(moment: datetime, period: Period) -> None:
    window = newest_full(moment, period)
    assert list(window.split(period)) == [window]
    assert window.end <= utc(moment) < period_end(window.end, period)


@given(one=windows(timedelta(days=400)), two=windows(timedelta(days=400)))
@settings(max_examples=100, deadline=None)
def test_keys_tell_windows_apart_and_sort_by_time(one: Window, two: Window) -> None:
    assert (one.key == two.key) == (one == two)
    assert Window.from_key(one.key) == one
    assume(one.start != two.start)
    assert (one.key < two.key) == (one.start < two.start)
    assert not set(one.key) & set("/\\: "), "a key is one part of a path"


@given(start=moments, length=st.integers(1, 5), shift=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_windows_less_than_a_second_apart_have_keys_of_their_own(start: datetime, length: int, shift: int) -> None:
    one = Window(start, utc(start) + timedelta(microseconds=length))
    two = Window(start, one.end + timedelta(microseconds=shift))
    assert one.key != two.key
    assert one.key < two.key


def test_whole_seconds_give_short_keys() -> None:
    assert Window(datetime(2024, 1, 1), datetime(2024, 2, 1, 6)).key == "20240101T000000-20240201T060000"


def test_the_start_is_inside_and_the_end_is_not() -> None:
    window = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))
    assert window.start in window
    assert window.end not in window
    assert datetime(2024, 1, 1, 23, 30, tzinfo=timezone(timedelta(hours=-5))) not in window


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_window_that_does_not_end_after_its_start_is_refused(seconds: int) -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match=r"must end after it starts, got \[2024-01-01"):
        Window(start, start + timedelta(seconds=seconds))


def test_naive_times_are_utc_and_others_are_moved() -> None:
    east = timezone(timedelta(hours=2))
    window = Window(datetime(2024, 1, 1), datetime(2024, 1, 2, 2, tzinfo=east))
    assert window.as_dict() == {"start": "2024-01-01T00:00:00+00:00", "end": "2024-01-02T00:00:00+00:00"}
    assert str(window) == "[2024-01-01, 2024-01-02)"


def test_a_label_has_the_time_of_day_only_where_there_is_one() -> None:
    assert label(datetime(2024, 5, 6)) == "2024-05-06"
    assert label(datetime(2024, 5, 6, 7, 8, 9)) == "2024-05-06 07:08:09"
