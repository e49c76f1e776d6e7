"""What each training worker runs: a loop that can stop anywhere and go on from its last epoch, in any layout."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

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
from ray_jobs.train.layout.apply import Memory
from ray_jobs.train.layout.checks import layout_of
from ray_jobs.train.layout.engine import Engine, Optimization
from ray_jobs.train.layout.gradients import LossScale

_WARM_UP_SHARE = 0.15

Report = Callable[[Mapping[str, float]], None]
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
) -> Fitted:
    """Fit the pipeline's module until the validation loss stops falling.

    Each epoch ends with a report on every rank and, on rank 0, a committed checkpoint; a worker that starts again
    goes on after the newest one and, as the order of rows and what dropout draws depend on the epoch only, ends where
    it would have.

    Raises:
        TrainingError: the loss is not finite.
        FencedError: `prove` says that this run may no longer publish a checkpoint.
        ConfigError: the spec's layout cannot work.
    """
    spec = pipeline.spec.training
    engine = make_engine(pipeline, inputs, rank)
    position, best = restore(engine, store, checkpoint_prefix, spec.epochs)
    training, validation = training.to(rank.device), validation.to(rank.device)
    steps = steps_per_epoch(len(training), spec.batch_size)
    while position.epoch < spec.epochs and position.stale_epochs < spec.patience_epochs:
        started = time.perf_counter()
        # Dropout draws from this, not from what earlier epochs left: a resumed epoch draws the same.
        torch.manual_seed(int(digest_json([spec.seed, position.epoch, engine.data_rank])[:15], 16))
        order = batches(
            len(training),
            spec.batch_size,
            epoch=position.epoch,
            seed=spec.seed,
            rank=engine.data_rank,
            world_size=engine.data_world,
        )
        losses: list[float] = []
        for index in order:
            rate = spec.learning_rate * one_cycle(position.step / (spec.epochs * steps))
            batch = training.take(index)
            # A short last batch is filled until no rank has an empty share.
            rows = max(engine.data_world, min(spec.batch_size, len(training) - len(losses) * spec.batch_size))
            losses.append(engine.step(batch.inputs, batch.targets, rate, rows).loss)
            position.step += 1
            _require_finite(losses[-1], f"step {len(losses)} of epoch {position.epoch + 1}")
        validation_loss = _validation_loss(engine, validation, spec, rank)
        _require_finite(validation_loss, f"the validation after epoch {position.epoch + 1}")
        position.epoch += 1
        is_better = validation_loss < position.best_loss
        due = position.epoch % spec.checkpoint_every_epochs == 0 or position.epoch == spec.epochs
        state = engine.whole_state() if is_better or due else {}
        if is_better:
            position.best_loss, position.best_epoch = validation_loss, position.epoch
            best = {name: tensor.clone() for name, tensor in state["model"].items()}
        metrics = {
            "epoch": float(position.epoch),
            "training_loss": sum(losses) / len(losses),
            "validation_loss": validation_loss,
            "learning_rate": rate,
            "rows_per_second": len(training) / (time.perf_counter() - started),
        }
        position.history.append(metrics)
        if rank.rank == 0 and due:
            prove()
            checkpoint.save(store, checkpoint_prefix, position, state, best, asdict(engine.scale))
        report(metrics)
    return Fitted(best, position)


def make_engine(pipeline: Pipeline, inputs: TableInputs, rank: Rank) -> Engine:
    """The pipeline's module, spread over the workers as the spec says.

    Raises:
        ConfigError: it cannot be.
    """
    spec, label = pipeline.spec.training, pipeline.spec.data.label
    torch.manual_seed(spec.seed)
    module, plan = pipeline.build_model(inputs, pipeline.spec.model.options), pipeline.parallel_plan(inputs)
    memory_bytes = torch.cuda.mem_get_info(rank.device)[1] if rank.device.type == "cuda" else 0
    layout = layout_of(spec, module, plan, rank.world_size, memory_bytes)
    return Engine(
        module,
        plan,
        lambda logits, targets: loss_of(logits, targets, label),
        layout,
        rank.device,
        Memory(spec.precision, spec.activation_checkpointing, spec.compile),
        Optimization(spec.weight_decay, spec.gradient_clip, spec.gradient_accumulation),
    )


def restore(
    engine: Engine, store: ObjectStore, prefix: str, epochs: int
) -> tuple[checkpoint.Position, dict[str, torch.Tensor]]:
    """Have the engine go on where a run of before has come to: its position and its best weights.

    Raises:
        ArtifactError: the checkpoint is of another model, or no checkpoint; the engine is as it was.
    """
    found = checkpoint.load_newest(store, prefix, epochs)
    if found is None:
        return checkpoint.Position(), {}
    try:
        _require_alike(found.best, found.state["model"])
        scale = LossScale(**found.scale)
        engine.load_whole(found.state)
    except (ValueError, TypeError, RuntimeError) as error:
        raise checkpoint.unfit(found.key, prefix, error) from error
    engine.scale = scale
    return found.position, found.best


def _require_alike(best: Mapping[str, torch.Tensor], model: Mapping[str, torch.Tensor]) -> None:
    kinds = [{name: (each.shape, each.dtype) for name, each in part.items()} for part in (best, model)]
    if best and kinds[0] != kinds[1]:
        raise ValueError("its best weights are another model's")


def _require_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss of {where} is not finite",
            got=loss,
            next="lower training.learning_rate, or look for extreme values in the data; the last checkpoint is kept",
        )


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


def _validation_loss(engine: Engine, rows: Tensors, spec: TrainingSpec, rank: Rank) -> float:
    """Mean loss over all validation rows, each data rank taking its share; all are asked equally often."""
    total = count = 0.0
    for start in range(0, len(rows), spec.batch_size):
        mine = torch.arange(start, min(start + spec.batch_size, len(rows)))[engine.data_rank :: engine.data_world]
        # Who has no rows left still takes part, with one that does not count.
        batch = rows.take(mine if len(mine) else torch.tensor([start]))
        total += engine.evaluate(batch.inputs, batch.targets) * len(mine)
        count += len(mine)
    total, count = rank.total(total, count)
    return total / count


def predictor_module(pipeline: Pipeline, inputs: TableInputs, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The fitted module on the CPU, ready to answer."""
    module = pipeline.build_model(inputs, pipeline.spec.model.options)
    module.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
    return module.eval()
