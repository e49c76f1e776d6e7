"""What is said of a training that waits, and which of Ray's reservations is its own."""

from __future__ import annotations

from typing import Any

import pytest

from ray_jobs.train.room import wait, waits

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


def group(state: str, workers: int, each: dict[str, float] = EACH) -> dict[str, Any]:
    return {"state": state, "bundles": {number: dict(each) for number in range(workers)}}


@pytest.mark.parametrize(
    ("groups", "waiting"),
    [
        ([group("PENDING", 2)], True),
        ([group("CREATED", 2), group("PENDING", 2)], True),
        ([group("CREATED", 2)], False),
        ([group("PENDING", 1)], False),
        ([group("PENDING", 2, {"CPU": 1.0})], False),
        ([group("PENDING", 0)], False),
        ([], False),
    ],
)
def test_a_reservation_is_ours_by_its_bundles(groups: list[dict[str, Any]], waiting: bool) -> None:
    assert waits(groups, 2, 2, EACH) is waiting


@pytest.mark.parametrize(
    ("groups", "waiting"),
    [
        ([], True),
        ([group("REMOVED", 2)], True),
        ([group("CREATED", 1)], True),
        ([group("CREATED", 2)], False),
        ([group("CREATED", 4)], False),
        ([group("PENDING", 3)], True),
    ],
)
def test_an_elastic_training_waits_while_it_has_no_workers(groups: list[dict[str, Any]], waiting: bool) -> None:
    assert waits(groups, 2, 4, EACH) is waiting
