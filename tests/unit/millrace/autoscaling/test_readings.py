"""What a replica tells is taken as it is, or not at all."""

from __future__ import annotations

import math
from typing import Any

import pytest

from millrace.autoscaling import Reading
from millrace.autoscaling.readings import KEYS

TOLD = Reading(5.0, 10, 8, 0.5, 0.04, cpu_seconds_total=0.6, in_flight=2, warm_up_seconds=3.0)


def test_metrics_are_a_reading_again() -> None:
    metrics = TOLD.as_metrics()
    assert tuple(metrics) == KEYS
    assert Reading.of(5.0, metrics) == TOLD


def test_what_a_replica_need_not_know_is_zero() -> None:
    needed = {key: 1.0 for key in KEYS if key.endswith("_total") and not key.startswith("cpu")}
    assert Reading.of(5.0, needed) == Reading(5.0, 1, 1, 1, 1)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0, None, "many"])
@pytest.mark.parametrize("key", KEYS)
def test_a_value_that_is_no_count_spoils_the_reading(key: str, wrong: Any) -> None:
    assert Reading.of(5.0, TOLD.as_metrics() | {key: wrong}) is None


def test_a_missing_counter_or_time_spoils_the_reading() -> None:
    assert Reading.of(5.0, {}) is None
    assert Reading.of(math.nan, TOLD.as_metrics()) is None
