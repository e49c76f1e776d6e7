"""Staged documents as what a training fits: each byte from those before it; and the package of the result."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from millrace.card import text_card
from millrace.language_model import LanguageModel
from millrace.package_files import fill
from millrace.pipeline import Pipeline
from millrace.shards import SampleSet, open_set
from millrace.spec import TextSpec
from millrace.storage import Artifact, ObjectStore, digest_json
from millrace.text_package import publish_text_package, text_inputs
from millrace.texts import TextInputs
from millrace.window import Window
from ray_jobs.cluster import object_store, pipeline_on_worker, scratch_dir
from ray_jobs.stage.tokens import documents, write_tokens
from ray_jobs.train.position import Position
from ray_jobs.train.problem import Problem
from ray_jobs.train.request import TrainRequest

_FORMAT = 1


def prepare_text(request: TrainRequest) -> None:
    """Write the tokens of the request's training and validation windows; nothing where it was done before.

    Raises:
        DataError: a window has fewer tokens than a sequence needs.
    """
    data = pipeline_on_worker(request.settings, request.pipeline_name).spec.texts
    store, scratch = object_store(request.settings), scratch_dir(request.settings, "tokens")
    for window in (request.split.training, request.split.validation):
        write_tokens(store, request.staged, data, window, key=_key(request, data, window), scratch=scratch)


def open_text(request: TrainRequest, pipeline: Pipeline, store: ObjectStore) -> Problem:
    """What `prepare_text` made.

    Raises:
        ArtifactError: it did not, or it is gone.
    """
    data, split = pipeline.spec.texts, request.split
    training, validation = (open_set(store, _key(request, data, part)) for part in (split.training, split.validation))
    return text_problem(text_inputs(pipeline.spec), training, validation)


def text_problem(inputs: TextInputs, training: SampleSet, validation: SampleSet) -> Problem:
    """The problem of samples with a column `tokens`, [sequence_length + 1] each, as `TokenWriter` writes them."""
    return Problem(inputs, training, validation, _divide, loss_of)


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean loss of a batch in nats a token: logits [rows, length, vocabulary], targets int64 [rows, length]."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def publish_text(
    request: TrainRequest, pipeline: Pipeline, problem: Problem, weights: Mapping[str, torch.Tensor], position: Position
) -> Artifact:
    """Commit the package of the best weights of a run.

    Raises:
        FencedError: the run no longer holds the slot.
    """
    spec, store = pipeline.spec, object_store(request.settings)
    module = pipeline.build_model(problem.inputs, spec.model.options)
    model = LanguageModel(spec, fill(module, {name: tensor.cpu() for name, tensor in weights.items()}))
    metrics = {
        "validation_loss": position.best_loss,
        "best_step": float(position.best_step),
        "steps": float(position.step),
    }
    lineage = request.package_lineage
    windows = {name: f"{part['start'][:10]} to {part['end'][:10]}" for name, part in request.split.as_dict().items()}
    card = text_card(
        spec,
        num_documents=request.staged.num_rows,
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        windows=windows,
        metrics=metrics,
        lineage=lineage,
    )
    held_out = documents(store, request.staged, spec.texts, request.split.validation)
    examples = next(part for part in held_out if part)
    request.prove()
    return publish_text_package(
        store,
        request.package_key,
        model=model,
        examples=examples,
        card=card,
        lineage=lineage | {"history": position.history, "flow_run": request.token.holder},
        metrics=metrics,
    )


def _divide(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = batch["tokens"].long()
    return tokens[:, :-1], tokens[:, 1:]


def _key(request: TrainRequest, data: TextSpec, window: Window) -> str:
    """Made of what the tokens depend on: runs that differ in their model only share them."""
    inputs = [request.staged.digest, window.as_dict(), data.text, data.sequence_length, _FORMAT]
    return f"encoded/{request.pipeline_name}/tokens-{digest_json(inputs)[:24]}"
