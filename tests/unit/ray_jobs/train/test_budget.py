"""What is tried again, how often, and what is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from millrace.errors import DataError, TrainingError
from millrace.goodput import Attempt
from ray_jobs.train.beats import Hang
from ray_jobs.train.budget import Budget, Loss, loss_of_workers
from ray_jobs.train.monitor import Seen
from ray_jobs.train.notice import PreemptedError

REQUEST: Any = SimpleNamespace(key="k", pipeline_name="tiny")


def seen(progress: int = 10, resumed: int | None = 5) -> Seen:
    return Seen(Attempt(0, 1, 0.0, 1.0, {}, resumed), progress=progress)


class WorkersFailedError(Exception):
    def __init__(self, failures: dict[int, BaseException]) -> None:
        super().__init__("workers failed")
        self.worker_failures = failures


def test_so_many_losses_are_survived_and_no_more() -> None:
    budget = Budget(2)
    for _ in range(2):
        budget.spend(Loss("failed", "gone", seen()), REQUEST)
    with pytest.raises(TrainingError, match="failed after 2 restarts") as caught:
        budget.spend(Loss("hung", "rank 1", seen()), REQUEST)
    assert caught.value.got == "'rank 1'"


def test_a_preemption_costs_nothing_while_steps_are_taken() -> None:
    budget = Budget(0)
    for _ in range(30):
        budget.spend(Loss("preempted", "left", seen()), REQUEST)
    for _ in range(10):
        budget.spend(Loss("preempted", "left", seen(progress=5)), REQUEST)
    with pytest.raises(TrainingError, match="11 times in a row before they took a step"):
        budget.spend(Loss("preempted", "left", seen(progress=5)), REQUEST)


def test_what_cannot_be_mended_by_trying_again_is_raised_at_once() -> None:
    wrapped = RuntimeError("in a worker")
    wrapped.__cause__ = DataError("no rows")
    with pytest.raises(DataError, match="no rows"):
        loss_of_workers(WorkersFailedError({0: RuntimeError("away"), 1: wrapped}), seen())


def test_each_loss_is_called_by_its_cause() -> None:
    left = loss_of_workers(WorkersFailedError({0: RuntimeError("away"), 1: PreemptedError(7)}), seen())
    assert left.kind == "preempted"
    assert "step 7" in left.reason
    lost = loss_of_workers(WorkersFailedError({1: RuntimeError("away")}), seen())
    assert (lost.kind, lost.reason) == ("failed", "rank 1: RuntimeError: away")
    stuck = seen()
    stuck.hang = Hang((1,), 9.0, {1: "asleep"})
    assert loss_of_workers(WorkersFailedError({1: RuntimeError("killed")}), stuck).kind == "hung"
