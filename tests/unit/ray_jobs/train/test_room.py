"""What is said of a training that waits, and which of Ray's reservations is its own."""

from __future__ import annotations

import pytest

from ray_jobs.train.room import is_for, wait

EACH = {"CPU": 1.0, "GPU": 1.0}


def test_a_wait_names_what_is_wanted_and_what_is_free() -> None:
    said = wait("churn", 2, EACH, {"CPU": 0.5}, {"CPU": 8.0, "GPU": 2.0})
    assert said["wants"] == "2 workers with 1 CPU, 1 GPU each"
    assert said["free"] == "0.5 of 8 CPU, 0 of 2 GPU"
    assert said["next"].startswith("it begins when others end")


def test_a_cluster_that_is_too_small_must_grow() -> None:
    said = wait("churn", 1, EACH, {"CPU": 8.0}, {"CPU": 8.0})
    assert said["wants"] == "1 worker with 1 CPU, 1 GPU"
    assert said["next"] == "it begins when nodes with GPU join the cluster"


@pytest.mark.parametrize(
    ("bundles", "ours"),
    [
        ({0: {"CPU": 1.0, "GPU": 1.0}, 1: {"CPU": 1.0, "GPU": 1.0}}, True),
        ({0: {"CPU": 1.0, "GPU": 1.0}}, False),
        ({0: {"CPU": 1.0}, 1: {"CPU": 1.0}}, False),
        ({}, False),
    ],
)
def test_a_reservation_is_ours_by_its_bundles(bundles: dict[int, dict[str, float]], ours: bool) -> None:
    assert is_for(bundles, 2, EACH) is ours
