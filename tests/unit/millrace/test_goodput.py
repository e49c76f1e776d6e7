"""Every second of every worker is in one class, whatever happened."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.goodput import CLASSES, Attempt, Goodput, Worker

PHASES = ("start", "compute", "data_wait", "checkpoint", "idle")
seconds = st.floats(0, 500)


@st.composite
def attempts(draw: st.DrawFn) -> list[Attempt]:
    found, now, step = [], 1_000_000.0, 0
    for number in range(draw(st.integers(1, 5))):
        world, began = draw(st.integers(1, 4)), now
        length = draw(st.floats(1, 1000))
        workers = {}
        for rank in range(world):
            if draw(st.booleans()):
                spent = {name: draw(seconds) for name in PHASES}
                marks = {step + 5: {name: value * 0.5 for name, value in spent.items()}}
                workers[rank] = Worker(began + draw(st.floats(-5, 1100)), spent, marks)
        resumed = draw(st.sampled_from([None, step, step + 5]))
        step = resumed or step
        found.append(Attempt(number, world, began, began + length, workers, resumed, draw(st.sampled_from(["failed"]))))
        now = began + length + draw(st.floats(0, 50))
    return found


@given(attempts())
def test_the_classes_add_up_to_the_wall_time_of_all_workers(given_attempts: list[Attempt]) -> None:
    found = Goodput.of(given_attempts)
    assert set(found.seconds) == set(CLASSES)
    assert all(value >= -1e-9 for each in found.by_attempt for value in each.values())
    assert found.unexplained == pytest.approx(0, abs=1e-9)
    again = Goodput.of([Attempt.from_dict(json.loads(json.dumps(each.as_dict()))) for each in given_attempts])
    assert again == found


def test_what_is_done_again_was_lost() -> None:
    spent = {"start": 2.0, "compute": 40.0, "data_wait": 4.0, "checkpoint": 2.0, "idle": 0.0}
    half = {name: value / 2 for name, value in spent.items()}
    first = Attempt(0, 1, 100.0, 160.0, {0: Worker(150.0, spent, {10: half})}, 0, "failed")
    second = Attempt(1, 1, 170.0, 200.0, {0: Worker(200.0, {"start": 5.0, "compute": 20.0})}, 10, "finished")
    found = Goodput.of([second, first])
    assert found.worker_seconds == 100.0
    assert found.seconds == pytest.approx(
        {
            "compute": 20.0 + 20.0,
            "data_wait": 2.0,
            "checkpoint": 1.0,
            "lost": 23.0,
            "idle": 2.0 + 2.0,  # starting
            "restart": 20.0 + 10.0,  # until the second attempt began, and until it took a step
        }
    )
    assert found.share == pytest.approx(0.4)
    metrics = found.metrics(price_per_hour=36.0)
    assert metrics["goodput_lost_cost"] == pytest.approx(0.23)
    assert metrics["goodput_attempts"] == 2


def test_an_attempt_that_went_on_from_before_another_lost_all_of_it() -> None:
    spent = {"start": 0.0, "compute": 10.0}
    runs = [Attempt(n, 1, 10.0 * n, 10.0 * n + 10, {0: Worker(10.0 * n + 10, spent)}, 5, "failed") for n in (0, 1)]
    assert Goodput.of(runs).seconds["lost"] == 10.0
    assert Goodput.of(runs).seconds["compute"] == 10.0


def test_a_run_of_which_nothing_is_known_spent_nothing() -> None:
    found = Goodput.of([])
    assert (found.worker_seconds, found.share, found.unexplained) == (0.0, 0.0, 0.0)
    assert set(found.seconds.values()) == {0.0}
