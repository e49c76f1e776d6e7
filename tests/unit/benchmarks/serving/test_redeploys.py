"""Which requests are counted to which phase of the load."""

from __future__ import annotations

import pytest

from benchmarks.serving.redeploys import by_phase


def test_a_request_belongs_to_the_phase_in_which_it_was_due() -> None:
    timeline = [(0.0, 0.010), (1.0, 0.030), (1.999, 0.030), (2.0, 0.010), (5.5, 0.050), (6.0, 0.010)]
    found = by_phase(timeline, {"version": [(1.0, 2.0)], "code": [(5.0, 6.0)], "none": []})
    assert found["steady_p99_ms"] == 10.0
    assert found["version_p99_ms"] == 30.0
    assert found["version_p99_ratio"] == pytest.approx(3.0)
    assert found["code_p99_ratio"] == pytest.approx(5.0)
    assert "none_p99_ratio" not in found
