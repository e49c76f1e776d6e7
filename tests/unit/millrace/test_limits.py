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
