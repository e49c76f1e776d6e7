"""A limit holds over every interval, and what it says about waiting is true."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConfigError
from millrace.limits import Limit, Limiter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


limits = st.builds(Limit.of, st.floats(0.1, 1000), st.integers(1, 50))


@given(limit=limits, gaps=st.lists(st.floats(0, 2), min_size=1, max_size=80))
def test_no_interval_has_more_than_the_burst_and_the_rate(limit: Limit, gaps: list[float]) -> None:
    clock = Clock()
    limiter = Limiter(limits={"acme": limit}, clock=clock)
    admitted: list[float] = []
    for gap in gaps:
        clock.now += gap / limit.rate
        if limiter.wait_of("acme") == 0:
            admitted.append(clock.now)
    for (one, start), (other, end) in itertools.combinations(enumerate(admitted), 2):
        assert other - one + 1 <= limit.burst + limit.rate * (end - start) + 1e-6


@given(limit=limits, asked=st.integers(1, 120))
def test_who_waits_as_told_may_ask_and_who_asks_earlier_may_not(limit: Limit, asked: int) -> None:
    clock = Clock()
    limiter = Limiter(limits={"acme": limit}, clock=clock)
    waits = [limiter.wait_of("acme") for _ in range(asked)]
    assert waits[: limit.burst] == [0.0] * min(asked, limit.burst)
    if asked > limit.burst:
        wait = waits[limit.burst]
        assert wait == pytest.approx(1 / limit.rate), "what was refused does not count"
        clock.now += wait * 0.99
        assert limiter.wait_of("acme") > 0
        clock.now += wait * 0.01 + 1e-6
        assert limiter.wait_of("acme") == 0


@given(limit=limits)
def test_who_keeps_to_its_rate_is_never_refused(limit: Limit) -> None:
    clock = Clock()
    limiter = Limiter(limits={"acme": limit}, clock=clock)
    for _ in range(50):
        assert limiter.wait_of("acme") == 0
        clock.now += 1.000001 / limit.rate


def test_customers_do_not_share_a_limit_and_some_have_none() -> None:
    limiter = Limiter(default=Limit.of(1, 1), limits={"big": Limit.of(1, 3)}, clock=Clock())
    assert [limiter.wait_of(name) == 0 for name in ("one", "one", "two", "big", "big", "big", "big")] == [
        True, False, True, True, True, True, False,
    ]  # fmt: skip
    assert [Limiter(clock=Clock()).wait_of("any") for _ in range(100)] == [0.0] * 100


def test_three_replicas_admit_what_one_would() -> None:
    clock = Clock()
    replicas = [Limiter(share=1 / 3, limits={"acme": Limit.of(30, 9)}, clock=clock) for _ in range(3)]
    admitted = 0
    for _ in range(1000):
        clock.now += 0.01
        admitted += sum(replica.wait_of("acme") == 0 for replica in replicas)
    assert admitted == pytest.approx(9 + 30 * 10, abs=3)


def test_a_burst_that_is_not_given_is_a_second_worth() -> None:
    assert [Limit.of(rate).burst for rate in (0.5, 1, 2.5, 100)] == [1, 1, 3, 100]


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (float("nan"), 1), (float("inf"), 1), (1, 0)])
def test_what_is_no_limit_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ConfigError, match="no limit"):
        Limit.of(rate, burst)


# How many replicas there are, and for how many tenths of a second; all of them are told at once.
numbers = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 30)), min_size=1, max_size=12)


@given(limit=limits, story=numbers)
def test_however_many_replicas_come_and_go_a_customer_has_its_rate_and_a_burst_for_each_that_came(
    limit: Limit, story: list[tuple[int, int]]
) -> None:
    clock = Clock()
    replicas: list[Limiter] = []
    admitted, bursts = 0, 0.0
    for count, tenths in story:
        replicas = replicas[:count]
        for each in replicas:
            each.share = 1 / count
        new = [Limiter(share=1 / count, limits={"acme": limit}, clock=clock) for _ in range(count - len(replicas))]
        # Each has a burst of its share when it comes, of at least one request; whose share grows gets that much more.
        bursts += count * max(1.0, limit.burst / count)
        replicas = replicas + new
        for _ in range(tenths):
            clock.now += 0.1
            for each in replicas:
                while each.wait_of("acme") == 0:
                    admitted += 1
    seconds = sum(tenths for _, tenths in story) / 10
    assert admitted <= limit.rate * seconds + bursts + 1e-6
    assert admitted >= min(1, limit.burst)


def test_the_rate_is_the_same_with_any_number_of_replicas() -> None:
    clock, limit = Clock(), Limit.of(50, 5)
    replicas: list[Limiter] = []
    for count in (1, 4, 2, 8, 3):
        replicas = [*replicas, *(Limiter(limits={"acme": limit}, clock=clock) for _ in range(count))][:count]
        for each in replicas:
            each.share = 1 / count
        admitted = 0
        for _ in range(2000):
            clock.now += 0.01
            admitted += sum(each.wait_of("acme") == 0 for each in replicas)
        assert admitted == pytest.approx(50 * 20, abs=2 * 8)
