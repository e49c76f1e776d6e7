"""What each training worker runs: a data-parallel loop that can stop anywhere and go on from its last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

from millrace.encoding import TableInputs
from millrace.errors import TrainingError
from millrace.pipeline import Pipeline
from millrace.spec import Label, TrainingSpec
from millrace.storage import ObjectStore, digest_json
from ray_jobs.train import checkpoint
from ray_jobs.train.data import Tensors, batches, steps_per_epoch

_WARM_UP_SHARE = 0.15
_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}

Report = Callable[[Mapping[str, float]], None]
Wrap = Callable[[torch.nn.Module], torch.nn.Module]
#: Raises when this run may no longer publish.
Prove = Callable[[], None]


@dataclass(frozen=True)
class Rank:
    """This worker's place: its rank, how many there are, and its device."""

    rank: int
    world_size: int
    device: torch.device

    def total(self, *values: float) -> list[float]:
        """The values, summed over all workers."""
        sums = torch.tensor(values, dtype=torch.float64, device="cpu" if self.device.type == "cpu" else self.device)
        if self.world_size > 1:
            dist.all_reduce(sums)
        return [float(number) for number in sums]


@dataclass(frozen=True)
class Fitted:
    """The best weights, where they were found, and each epoch's metrics."""

    weights: dict[str, torch.Tensor]
    position: checkpoint.Position


def fit(
    pipeline: Pipeline,
    inputs: TableInputs,
    training: Tensors,
    validation: Tensors,
    *,
    rank: Rank,
    store: ObjectStore,
    checkpoint_prefix: str,
    report: Report,
    prove: Prove = lambda: None,
    wrap: Wrap = lambda module: module,
) -> Fitted:
    """Fit the pipeline's module until the validation loss stops falling.

    Each epoch ends with a report on every rank and, on rank 0, a committed checkpoint; a worker that starts again
    goes on after the newest one and, as the order of rows and what dropout draws depend on the epoch only, ends where
    it would have.

    Raises:
        TrainingError: the loss is not finite.
        FencedError: `prove` says that this run may no longer publish a checkpoint.
    """
    spec = pipeline.spec.training
    torch.manual_seed(spec.seed)
    module = pipeline.build_model(inputs, pipeline.spec.model.options).to(rank.device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    position, best = checkpoint.load_newest(store, checkpoint_prefix, spec.epochs, module, optimizer)
    wrapped = wrap(module)
    training, validation = training.to(rank.device), validation.to(rank.device)
    scaler = torch.amp.GradScaler(rank.device.type, enabled=spec.precision == "fp16")
    total_steps = spec.epochs * steps_per_epoch(len(training), spec.batch_size)
    while position.epoch < spec.epochs and position.stale_epochs < spec.patience_epochs:
        started = time.perf_counter()
        # Dropout draws from this, not from what earlier epochs left: a resumed epoch draws the same.
        torch.manual_seed(int(digest_json([spec.seed, position.epoch, rank.rank])[:15], 16))
        wrapped.train()
        loss_sum = 0.0
        order = batches(
            len(training),
            spec.batch_size,
            epoch=position.epoch,
            seed=spec.seed,
            rank=rank.rank,
            world_size=rank.world_size,
        )
        for index in order:
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * one_cycle(position.step / total_steps)
            loss_sum += _step(wrapped, training.take(index), optimizer, scaler, pipeline.spec.data.label, spec, rank)
            position.step += 1
        steps = steps_per_epoch(len(training), spec.batch_size)
        (train_loss,) = rank.total(loss_sum / steps / rank.world_size)
        validation_loss = _validation_loss(module, validation, pipeline.spec.data.label, spec, rank)
        if not math.isfinite(train_loss) or not math.isfinite(validation_loss):
            raise TrainingError(
                f"the loss of epoch {position.epoch + 1} is not finite",
                got=f"training {train_loss}, validation {validation_loss}",
                next="lower training.learning_rate, or look for extreme values in the features",
            )
        position.epoch += 1
        if validation_loss < position.best_loss:
            position.best_loss, position.best_epoch = validation_loss, position.epoch
            best = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        metrics = {
            "epoch": float(position.epoch),
            "training_loss": train_loss,
            "validation_loss": validation_loss,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "rows_per_second": len(training) / (time.perf_counter() - started),
        }
        position.history.append(metrics)
        due = position.epoch % spec.checkpoint_every_epochs == 0 or position.epoch == spec.epochs
        if rank.rank == 0 and due:
            prove()
            checkpoint.save(store, checkpoint_prefix, position, module, optimizer, best)
        report(metrics)
    return Fitted(best, position)


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1]: linear up, cosine down (Smith & Topin 2018).

    A function of the position alone, so a resumed run needs no scheduler state.
    """
    if progress < _WARM_UP_SHARE:
        return 0.04 + 0.96 * progress / _WARM_UP_SHARE
    along = (progress - _WARM_UP_SHARE) / (1 - _WARM_UP_SHARE)
    return max(0.5 * (1 + math.cos(math.pi * along)), 1e-3)


def loss_of(logits: torch.Tensor, targets: torch.Tensor, label: Label) -> torch.Tensor:
    """Mean loss of a batch: logits [rows, outputs], targets float32 [rows]."""
    if label.kind == "multiclass":
        return functional.cross_entropy(logits, targets.long())
    if label.kind == "binary":
        return functional.binary_cross_entropy_with_logits(logits[:, 0], targets)
    return functional.mse_loss(logits[:, 0], targets)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The spec's precision on this device; fp32 changes nothing."""
    return torch.autocast(device.type, _PRECISION[precision]) if precision in _PRECISION else nullcontext()


def _step(
    module: torch.nn.Module,
    batch: Tensors,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    label: Label,
    spec: TrainingSpec,
    rank: Rank,
) -> float:
    with autocast(spec.precision, rank.device):
        loss = loss_of(module(batch.inputs).float(), batch.targets, label)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(module.parameters(), spec.gradient_clip)
    scaler.step(optimizer)
    scaler.update()
    return float(loss.detach())


def _validation_loss(module: torch.nn.Module, rows: Tensors, label: Label, spec: TrainingSpec, rank: Rank) -> float:
    """Mean loss over all validation rows, each rank taking its share."""
    module.eval()
    total = count = 0.0
    with torch.inference_mode(), autocast(spec.precision, rank.device):
        mine = torch.arange(rank.rank, len(rows), rank.world_size)
        for index in torch.split(mine, max(1, spec.batch_size)):
            batch = rows.take(index)
            total += float(loss_of(module(batch.inputs).float(), batch.targets, label)) * len(index)
            count += len(index)
    total, count = rank.total(total, count)
    return total / count


def predictor_module(pipeline: Pipeline, inputs: TableInputs, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The fitted module on the CPU, ready to answer."""
    module = pipeline.build_model(inputs, pipeline.spec.model.options)
    module.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
    return module.eval()
