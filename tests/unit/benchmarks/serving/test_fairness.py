"""What the loads of the part become: ratios by round, shares over all rounds."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.serving.fairness import summary


def load(p99: float, failed: int, answered: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"others": {"p99_ms": p99, "requests": 1000, "failed": failed, "problems": {}}}
    if answered is not None:
        refused = {"status 429": 5000 - answered}
        found["greedy"] = {"requests": 5000, "failed": 5000 - answered, "seconds": 10.0, "problems": refused}
    return found


def test_ratios_are_taken_by_round_and_shares_over_all() -> None:
    found = summary(
        {
            "alone": [load(10.0, 0), load(20.0, 0), load(10.0, 10)],
            "elsewhere": [load(10.0, 0, 5000), load(20.0, 0, 5000), load(10.0, 0, 5000)],
            "beside": [load(11.0, 0, 500), load(30.0, 30, 510), load(12.0, 10, 500)],
            "unlimited": [load(20.0, 0, 5000), load(40.0, 0, 4000), load(10.0, 300, 3000)],
        }
    )
    assert found["alone_p99_ms"] == {"median": 10.0, "min": 10.0, "max": 20.0}
    assert found["p99_ratios"] == {"median": 1.2, "min": 1.1, "max": 1.5}
    assert found["p99_ratio"] == 1.2
    assert found["service_p99_ratio"] == 1.2
    assert found["unlimited_p99_ratio"] == 2.0
    assert found["goodput_share"] == pytest.approx((2960 / 3000) / (2990 / 3000))
    assert found["unlimited_goodput_share"] == pytest.approx((2700 / 3000) / (2990 / 3000))
    assert found["greedy_answered_per_second"]["median"] == 50.0
    assert found["greedy_problems"] == {"status 429": 4500}
