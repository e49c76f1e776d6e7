"""The training loop in one process: it learns, it stops, and wherever it was killed it ends where it would have."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn import functional

from millrace import statistics
from millrace.encoding import TableInputs, labels
from millrace.errors import TrainingError
from millrace.package import LabelScale, Predictor
from millrace.pipeline import Pipeline
from millrace.spec import PipelineSpec
from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints.checkpoints import Checkpoints
from ray_jobs.train.loop import Fitted, predictor_module
from ray_jobs.train.notice import PreemptedError
from ray_jobs.train.rank import Rank
from ray_jobs.train.schedule import one_cycle
from ray_jobs.train.table_problem import loss_of

Fit = Callable[..., Fitted]
KINDS = ["binary", "multiclass", "regression"]


class Killed(BaseException):
    """The end of a worker."""


def killed_after(rounds: int) -> Callable[[Mapping[str, float]], None]:
    def report(metrics: Mapping[str, float]) -> None:
        if metrics["round"] == rounds:
            raise Killed

    return report


def losses(fitted: Fitted) -> list[tuple[float, float, float]]:
    """What each validation measured, without how fast it was."""
    return [(each["training_loss"], each["validation_loss"], each["learning_rate"]) for each in fitted.position.history]


def assert_identical(one: Fitted, two: Fitted) -> None:
    assert set(one.weights) == set(two.weights)
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, two.weights[name]), name
    assert losses(one) == losses(two)
    assert (one.position.step, one.position.best_step) == (two.position.step, two.position.best_step)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: str, run_fit: Fit) -> None:
    reported: list[Mapping[str, float]] = []
    fitted = run_fit(kind, {"training.epochs": 8, "training.learning_rate": 0.02}, report=reported.append)
    history = fitted.position.history
    assert history[-1]["training_loss"] < 0.8 * history[0]["training_loss"]
    assert reported == history
    assert [each["epoch"] for each in history] == list(range(1, 9))
    assert [each["step"] for each in history] == list(range(5, 41, 5))
    assert fitted.position.step == 8 * 5
    best = min(history, key=lambda each: each["validation_loss"])
    assert (fitted.position.best_step, fitted.position.best_loss) == (best["step"], best["validation_loss"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("killed", [1, 3])
def test_a_killed_run_ends_where_it_would_have(kind: str, killed: int, run_fit: Fit) -> None:
    whole = run_fit(kind, store="whole")
    with pytest.raises(Killed):
        run_fit(kind, store="killed", report=killed_after(killed))
    reported: list[Mapping[str, float]] = []
    resumed = run_fit(kind, store="killed", report=reported.append)
    assert [metrics["epoch"] for metrics in reported][-(4 - killed) :] == list(range(killed + 1, 5))
    assert_identical(resumed, whole)


@pytest.mark.parametrize(
    "change",
    [
        {"model.options": {"dropout": 0.3}},
        {"training.checkpoint_every_steps": 2},
        {"training.checkpoint_every_steps": 3, "training.validate_every_steps": 4},
        {"training.max_steps": 17},
        {"training.precision": "bf16"},
        {"training.precision": "fp16"},
        {"training.gradient_accumulation": 3, "training.activation_checkpointing": "full"},
        {"training.seed": 2**32 - 1, "training.batch_size": 7},
    ],
)
def test_so_it_does_with_dropout_and_with_rarer_checkpoints(change: dict[str, Any], run_fit: Fit) -> None:
    whole = run_fit(change=change, store="whole")
    with pytest.raises(Killed):
        run_fit(change=change, store="killed", report=killed_after(3))
    assert_identical(run_fit(change=change, store="killed"), whole)


def test_a_run_killed_again_and_again_ends_where_it_would_have(run_fit: Fit) -> None:
    whole = run_fit(store="whole")
    for epoch in (1, 2, 3, 4):
        with pytest.raises(Killed):
            run_fit(store="killed", report=killed_after(epoch))
    assert_identical(run_fit(store="killed"), whole)


def test_a_finished_run_is_not_run_again(run_fit: Fit) -> None:
    first, reported = run_fit(), []
    again = run_fit(report=reported.append)
    assert reported == []
    assert_identical(again, first)


def test_another_seed_gives_another_model(run_fit: Fit) -> None:
    one, two = run_fit(store="one"), run_fit(change={"training.seed": 1}, store="two")
    assert losses(one) != losses(two)
    assert_identical(run_fit(store="again"), one)


def test_it_stops_when_validation_no_longer_gets_better(run_fit: Fit) -> None:
    change = {"training.epochs": 60, "training.patience": 2, "training.learning_rate": 0.3}
    fitted = run_fit(change=change)
    position = fitted.position
    assert position.round < 60
    assert position.stale_rounds == 2
    after = [each["validation_loss"] for each in position.history[position.best_round :]]
    assert min(after) >= position.best_loss
    resumed = run_fit(change=change)
    assert_identical(resumed, fitted)


def test_the_best_weights_are_given_not_the_last(run_fit: Fit, tmp_path: Path) -> None:
    change = {"training.epochs": 30, "training.learning_rate": 0.3}
    fitted = run_fit(change=change)
    assert fitted.position.best_round < fitted.position.round
    found = Checkpoints(ObjectStore(str(tmp_path / "store")), "checkpoints/tiny/run").committed()
    assert [each.step for each in found] == [fitted.position.step, fitted.position.best_step]


def test_steps_are_counted_not_epochs(run_fit: Fit) -> None:
    change = {"training.max_steps": 17, "training.validate_every_steps": 4, "training.epochs": 40}
    history = run_fit(change=change).position.history
    assert [each["step"] for each in history] == [4, 8, 12, 16, 17]
    assert history[-1]["epoch"] == pytest.approx(17 / 5)


def test_with_notice_no_step_is_lost(run_fit: Fit, tmp_path: Path) -> None:
    whole, notice = run_fit(change={"training.validate_every_steps": 3}, store="whole"), threading.Event()

    def report(metrics: Mapping[str, float]) -> None:
        if metrics["step"] == 6:
            notice.set()

    with pytest.raises(PreemptedError) as caught:
        run_fit(change={"training.validate_every_steps": 3}, store="left", report=report, notice=notice)
    assert caught.value.step == 7, "the step that was under way, and no other"
    newest = Checkpoints(ObjectStore(str(tmp_path / "left")), "checkpoints/tiny/run").newest()
    assert newest is not None
    assert newest.step == 7
    assert_identical(run_fit(change={"training.validate_every_steps": 3}, store="left"), whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(value: float, run_fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        run_fit("regression", poison=value)
    assert re.fullmatch(r"the loss of step \d+, batch \d+ of the run, in epoch 1 is not finite", caught.value.what)
    assert caught.value.got in ("nan", "inf")
    assert "look for extreme values in the data; the last checkpoint is kept" in (caught.value.next or "")
    assert Checkpoints(ObjectStore(str(tmp_path / "store")), "checkpoints/tiny/run").newest() is None


def test_the_fitted_module_answers_on_the_cpu(run_fit: Fit, tiny: Pipeline) -> None:
    fitted = run_fit()
    module = predictor_module(tiny, TableInputs.shaped(tiny.spec.data), fitted.weights)
    assert not module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, fitted.weights[name])


def test_validation_is_answered_as_serving_will(
    run_fit: Fit, write_pipeline: Callable[..., Pipeline], make_rows: Callable[..., pd.DataFrame], tmp_path: Path
) -> None:
    """Without dropout, which is for training alone."""
    options = {"model.options": {"dropout": 0.6}}
    fitted = run_fit(change=options)
    pipeline, rows = write_pipeline(tmp_path, change=options), make_rows("binary", 80, seed=2)
    module = predictor_module(pipeline, TableInputs.shaped(pipeline.spec.data), fitted.weights)
    answers = Predictor(pipeline.spec, module, LabelScale()).predict_rows(rows)
    assert statistics.value("log_loss", labels(rows, pipeline.spec.data), answers) == pytest.approx(
        fitted.position.best_loss, rel=1e-5
    )


# The parts


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [one_cycle(step / 200) for step in range(201)]
    peak = rates.index(max(rates))
    assert peak == 30
    assert rates[peak] == pytest.approx(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[0] == pytest.approx(0.04)
    assert all(0 < rate <= 1 for rate in rates)
    assert max(abs(one - two) for one, two in pairwise(rates)) < 0.04, "no jumps"


def test_the_loss_fits_the_label(make_spec: Callable[..., PipelineSpec]) -> None:
    labels = {kind: make_spec(kind).data.label for kind in KINDS}
    logits, targets = torch.tensor([[2.0], [-1.0]]), torch.tensor([1.0, 0.0])
    probabilities = torch.sigmoid(logits[:, 0])
    expected = -(torch.log(probabilities[0]) + torch.log(1 - probabilities[1])) / 2
    torch.testing.assert_close(loss_of(logits, targets, labels["binary"]), expected)
    assert float(loss_of(logits, targets, labels["regression"])) == pytest.approx(1.0)
    three = torch.tensor([[1.0, 2.0, 3.0]])
    expected = -functional.log_softmax(three, 1)[0, 2]
    torch.testing.assert_close(loss_of(three, torch.tensor([2.0]), labels["multiclass"]), expected)


def test_one_worker_is_its_own_total() -> None:
    assert Rank(0, 1, torch.device("cpu")).total(1.5, math.pi) == [1.5, math.pi]
