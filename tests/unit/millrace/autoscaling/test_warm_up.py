"""A warm-up is what passed from the decision to the last replica that it wanted."""

from __future__ import annotations

from millrace.autoscaling.warm_up import WarmUp


def test_until_a_start_was_seen_replicas_are_believed() -> None:
    warm_up = WarmUp()
    assert warm_up.seconds(0.0) == 10.0
    assert warm_up.seconds(2.0) == 7.0


def test_the_longest_of_the_newest_starts_counts() -> None:
    warm_up, now = WarmUp(), 0.0
    for seconds in (30.0, 6.0, 7.0, 8.0, 9.0):
        warm_up.observe(now, 1, 2)
        warm_up.observe(now + seconds / 2, 1, 2)
        warm_up.observe(now + seconds, 2, 2)
        warm_up.observe(now + seconds + 1, 1, 1)
        now += 100
    assert warm_up.seconds(2.0) == 30.0
    warm_up.observe(now, 1, 3)
    warm_up.observe(now + 4, 2, 3)
    warm_up.observe(now + 5, 3, 3)
    assert warm_up.seconds(2.0) == 9.0


def test_a_start_that_is_called_off_is_none() -> None:
    warm_up = WarmUp()
    warm_up.observe(0.0, 1, 4)
    warm_up.observe(5.0, 1, 1)
    warm_up.observe(50.0, 1, 1)
    assert warm_up.seconds(0.0) == 10.0


def test_a_clock_that_goes_back_gives_no_start() -> None:
    warm_up = WarmUp()
    warm_up.observe(100.0, 1, 2)
    warm_up.observe(50.0, 2, 2)
    assert warm_up.seconds(0.0) == 10.0
