"""Each byte from those before it; what a run fits is what was staged, and its package says how well it did."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import torch

from millrace.dataset import StagedSet
from millrace.errors import ArtifactError, FencedError
from millrace.ledger import Ledger, Token
from millrace.loader import Loader, StoreSource
from millrace.package_files import card_text
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore
from millrace.text_package import load_language_model
from millrace.texts import TextInputs
from ray_jobs.evaluate.judge import judge
from ray_jobs.train.loop import Place, fit
from ray_jobs.train.position import Position
from ray_jobs.train.rank import Rank
from ray_jobs.train.request import Split, TrainRequest, make_request
from ray_jobs.train.text_problem import loss_of, open_text, prepare_text, publish_text

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def request_of(prose: Pipeline, local_settings: Settings, staged_prose: StagedSet) -> Callable[..., TrainRequest]:
    def make(token: Token | None = None) -> TrainRequest:
        taken = Ledger(local_settings.ledger).slots.take(prose.name, "training", "run") if token is None else token
        assert isinstance(taken, Token)
        lineage = {"code": "c", "lock": "l", "commit": "h", "incident": ""}
        split = Split.of(prose, staged_prose.window, AS_OF)
        return make_request(local_settings, prose, staged_prose, split, lineage, taken)

    return make


@pytest.fixture
def store(local_settings: Settings) -> ObjectStore:
    return ObjectStore.of(local_settings)


def test_a_batch_of_the_loader_is_what_comes_and_what_comes_next(
    prose: Pipeline, store: ObjectStore, request_of: Callable[..., TrainRequest]
) -> None:
    request = request_of()
    prepare_text(request)
    problem = open_text(request, prose, store)
    assert problem.inputs == TextInputs(256, 64)
    assert problem.training.num_samples > 5 * problem.validation.num_samples
    with Loader(problem.training, StoreSource(store), batch_size=8, seed=1, epochs=1) as loader:
        batch = next(iter(loader))
    seen, wanted = problem.divide(batch.tensors)
    assert (seen.shape, wanted.shape, seen.dtype) == ((8, 64), (8, 64), torch.int64)
    assert torch.equal(seen[:, 1:], wanted[:, :-1])
    module = prose.build_model(problem.inputs, prose.spec.model.options)
    assert problem.loss(module(seen), wanted).item() == pytest.approx(math.log(256), abs=0.1)


def test_what_was_prepared_is_not_prepared_again(
    prose: Pipeline, store: ObjectStore, request_of: Callable[..., TrainRequest]
) -> None:
    request = request_of()
    with pytest.raises(ArtifactError):
        open_text(request, prose, store)
    prepare_text(request)
    first = open_text(request, prose, store)
    prepare_text(request)
    again = open_text(request, prose, store)
    assert (again.training, again.validation) == (first.training, first.validation)


def test_the_loss_is_the_mean_over_all_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, generator=generator)
    targets = torch.randint(0, 5, (2, 3), generator=generator)
    chances = torch.log_softmax(logits, -1)
    expected = -np.mean([float(chances[row, at, targets[row, at]]) for row in range(2) for at in range(3)])
    assert loss_of(logits, targets).item() == pytest.approx(expected)


def _position() -> Position:
    rounds = [
        {"step": 20.0, "epoch": 1.0, "training_loss": 1.0, "validation_loss": math.log(2), "rows_per_second": 1.0}
    ]
    return Position(step=40, best_loss=math.log(2), best_step=20, best_round=1, history=rounds)


def test_the_package_has_the_best_weights_and_how_good_they_are(
    prose: Pipeline, store: ObjectStore, request_of: Callable[..., TrainRequest]
) -> None:
    request = request_of()
    prepare_text(request)
    problem = open_text(request, prose, store)
    torch.manual_seed(5)
    weights: dict[str, Any] = prose.build_model(problem.inputs, prose.spec.model.options).state_dict()
    package = publish_text(request, prose, problem, weights, _position())
    assert package.key == request.package_key
    assert package.summary["metrics"] == {"validation_loss": math.log(2), "best_step": 20.0, "steps": 40.0}
    assert package.lineage["history"] == _position().history
    assert package.lineage["flow_run"] == "run"
    loaded = load_language_model(package, prose)
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.module.state_dict().items())
    assert "up to 64 bytes before it" in card_text(package)


def test_who_lost_the_slot_publishes_nothing(
    prose: Pipeline, store: ObjectStore, request_of: Callable[..., TrainRequest], local_settings: Settings
) -> None:
    request = request_of()
    prepare_text(request)
    problem = open_text(request, prose, store)
    Ledger(local_settings.ledger).slots.take(prose.name, "training", "another", instead_of="run")
    weights = prose.build_model(problem.inputs, prose.spec.model.options).state_dict()
    with pytest.raises(FencedError):
        publish_text(request, prose, problem, weights, _position())
    assert store.find(request.package_key) is None


def test_what_is_fitted_beats_frequencies_on_documents_it_has_not_seen(
    prose: Pipeline, store: ObjectStore, request_of: Callable[..., TrainRequest], local_settings: Settings
) -> None:
    request = request_of()
    prepare_text(request)
    problem = open_text(request, prose, store)
    fitted = fit(prose, problem, Rank(0, 1, torch.device("cpu")), Place(store, request.checkpoint_prefix))
    package = publish_text(request, prose, problem, fitted.weights, fitted.position)
    found = judge(local_settings, prose.spec, request.staged, request.split, package.key, None)
    bits = {model: metrics["bits_per_byte"] for model, metrics in found.metrics.items()}
    assert bits["challenger"] < bits["baseline"] / 2
    assert found.verdict.passed, found.verdict.summary
    told = package.summary["metrics"]["validation_loss"] / math.log(2)
    assert bits["challenger"] == pytest.approx(told, rel=0.2), "sequences begin within documents, and at their begin"
