"""What each training worker runs: steps that can stop anywhere and go on from the last checkpoint, in any layout."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from millrace.errors import TrainingError
from millrace.loader import Batch, Cache, Loader, StoreSource
from millrace.loader.share import share
from millrace.pipeline import Pipeline
from millrace.shards import SampleSet
from millrace.storage import ObjectStore, digest_json
from ray_jobs.train.checkpoints.interval import FailureRate
from ray_jobs.train.layout.apply import Memory
from ray_jobs.train.layout.checks import layout_of
from ray_jobs.train.layout.engine import Engine, Optimization
from ray_jobs.train.notice import Notice, PreemptedError
from ray_jobs.train.position import Position
from ray_jobs.train.problem import Inputs, Problem
from ray_jobs.train.rank import Rank
from ray_jobs.train.saver import Saver
from ray_jobs.train.schedule import Schedule
from ray_jobs.train.speed import Speed
from ray_jobs.train.stopwatch import Stopwatch

#: Asking is a round of all ranks, and of Ray's controller.
_ASK_SECONDS = 2.0

Report = Callable[[Mapping[str, float]], None]
#: Raises when this run may no longer publish.
Prove = Callable[[], None]


@dataclass(frozen=True)
class Place:
    """Where a run keeps its checkpoints and its shards, and what it tells and asks on the way.

    Args:
        rate: What is believed of failures; it sets how often a checkpoint is taken.
        cache: For shards that are not on this machine.
        notice: Says that this machine goes away.
        ask: The same, of whoever runs all machines: asked by all ranks at once, every few seconds.
        watch: Told what each second was spent on.
    """

    store: ObjectStore
    checkpoint_prefix: str
    report: Report = lambda metrics: None
    prove: Prove = lambda: None
    rate: FailureRate = FailureRate()  # noqa: RUF009 - frozen
    cache: Cache | None = None
    notice: Notice = field(default_factory=Notice)
    ask: Callable[[], bool] | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True)
class Fitted:
    """The best weights, on the first rank, where they were found, and what each validation measured."""

    weights: dict[str, torch.Tensor]
    position: Position


def fit(pipeline: Pipeline, problem: Problem, rank: Rank, place: Place) -> Fitted:
    """Fit the pipeline's module until the validation loss stops falling.

    A worker that starts again, alone or among any number, goes on after the newest checkpoint; as batches, learning
    rates and what dropout draws depend on the step only, it ends where it would have.

    Raises:
        TrainingError: the loss is not finite.
        PreemptedError: this machine goes away; a checkpoint of the last step is committed.
        FencedError: `prove` says that this run may no longer publish a checkpoint.
        ConfigError: the spec's layout cannot work.
        ArtifactError, DigestError: a checkpoint or a shard is not what it should be.
    """
    with place.watch.phase("start"):
        run = _Run.begin(pipeline, problem, rank, place)
    try:
        with run.loader, place.watch.phase("compute"):
            run.to_its_end()
        with place.watch.phase("checkpoint"):
            run.saver.wait()
        with place.watch.phase("idle"):
            weights = run.saver.best(run.position)
            run.saver.close()
    except BaseException:
        run.saver.abandon()
        raise
    return Fitted(weights, run.position)


@dataclass
class _Run:
    """A training on one rank, from where it began or goes on."""

    pipeline: Pipeline
    problem: Problem
    rank: Rank
    place: Place
    engine: Engine
    loader: Loader
    schedule: Schedule
    saver: Saver
    position: Position
    speed: Speed
    asked: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, pipeline: Pipeline, problem: Problem, rank: Rank, place: Place) -> _Run:
        spec = pipeline.spec.training
        engine = make_engine(pipeline, problem, rank)
        loader = _loader(problem.training, engine, place, spec.batch_size, seed=spec.seed)
        saver = Saver(
            engine,
            loader,
            place.store,
            place.checkpoint_prefix,
            every=spec.checkpoint_every_steps,
            rate=place.rate,
            prove=place.prove,
            group=rank.save_group,
        )
        position = saver.resume()
        place.watch.resumed(position.step)
        schedule = Schedule.of(spec, loader.steps_per_epoch)
        speed = _speed(pipeline, problem, rank)
        return cls(pipeline, problem, rank, place, engine, loader, schedule, saver, position, speed)

    @property
    def is_over(self) -> bool:
        patience = self.pipeline.spec.training.patience
        return self.position.step >= self.schedule.steps or self.position.stale_rounds >= patience

    def to_its_end(self) -> None:
        """Take steps, validate after each round of them, and save whenever that is due.

        Raises:
            PreemptedError: notice was given; a checkpoint of the last step is committed.
        """
        began, first = time.perf_counter(), self.position.step
        batches = _timed(self.loader, self.place.watch)
        while not self.is_over:
            rate, due, leaves = self._step(next(batches))
            metrics: dict[str, float] = {}
            best = self.position.best_step
            if self.schedule.is_round(self.position.step):
                steps_per_second = (self.position.step - first) / (time.perf_counter() - began)
                metrics = self._validate(rate, steps_per_second)
            if due or leaves or self.is_over or self.position.best_step != best:
                self._save()
            if leaves and not self.is_over:
                with self.place.watch.phase("checkpoint"):
                    self.saver.wait()
                raise PreemptedError(self.position.step)
            if metrics:
                self.place.report(metrics)
                began, first = time.perf_counter(), self.position.step

    def _step(self, batch: Batch) -> tuple[float, bool, bool]:
        """Take one optimizer step: its learning rate, and whether a checkpoint is due, and a worker leaves.

        All workers agree on both.
        """
        spec, position = self.pipeline.spec.training, self.position
        with self.place.watch.phase("compute", position.step + 1):
            # Dropout draws from this, not from what earlier steps left: a resumed run draws the same.
            _draw_from(_seed(spec.seed, position.step, self.engine.data_rank), self.engine.device)
            rate = spec.learning_rate * self.schedule.rate(position.step)
            inputs, targets = self.problem.divide(batch.tensors)
            started = time.perf_counter()
            step = self.engine.step(inputs, targets, rate, spec.batch_size, self._votes)
            _require_finite(step.loss, f"step {position.step + 1}, {_where(batch)}")
            position.stepped(step.loss)
            self.saver.stepped(time.perf_counter() - started)
        due, leaves, asks = step.votes
        if asks and self.place.ask is not None:
            self.asked = time.monotonic()
            leaves = self.place.ask() or leaves
        return rate, due, leaves

    def _votes(self) -> tuple[bool, bool, bool]:
        """What this worker says of the step under way: a checkpoint is due after it, it leaves, it is time to ask."""
        due = self.rank.is_first and self.saver.is_due(self.position.step + 1)
        asks = self.place.ask is not None and time.monotonic() - self.asked > _ASK_SECONDS
        return due, self.place.notice.given, asks

    def _validate(self, rate: float, steps_per_second: float) -> dict[str, float]:
        """End a round: what it measured."""
        batch_size, position = self.pipeline.spec.training.batch_size, self.position
        loss = _validation_loss(self.engine, self.problem, self.rank, self.place, batch_size)
        _require_finite(loss, f"the validation after step {position.step}")
        metrics = {
            "round": float(position.round + 1),
            "step": float(position.step),
            "epoch": position.step / self.schedule.steps_per_epoch,
            "training_loss": position.losses / position.since,
            "validation_loss": loss,
            "learning_rate": rate,
            **self.speed.metrics(steps_per_second * batch_size),
        }
        position.validated(loss, metrics)
        return metrics

    def _save(self) -> None:
        with self.place.watch.phase("checkpoint", self.position.step):
            self.place.watch.mark(self.position.step)
            self.saver.save(self.position)


def make_engine(pipeline: Pipeline, problem: Problem, rank: Rank) -> Engine:
    """The pipeline's module, spread over the workers as the spec says.

    Raises:
        ConfigError: it cannot be.
    """
    spec = pipeline.spec.training
    torch.manual_seed(spec.seed)
    module = pipeline.build_model(problem.inputs, pipeline.spec.model.options)
    plan = pipeline.parallel_plan(problem.inputs)
    memory_bytes = torch.cuda.mem_get_info(rank.device)[1] if rank.device.type == "cuda" else 0
    return Engine(
        module,
        plan,
        problem.loss,
        layout_of(spec, module, plan, rank.world_size, memory_bytes),
        rank.device,
        Memory(spec.precision, spec.activation_checkpointing, spec.compile),
        Optimization(spec.weight_decay, spec.gradient_clip, spec.gradient_accumulation),
    )


def predictor_module(pipeline: Pipeline, inputs: Inputs, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The fitted module on the CPU, ready to answer."""
    module = pipeline.build_model(inputs, pipeline.spec.model.options)
    module.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()})
    return module.eval()


def _loader(
    samples: SampleSet, engine: Engine, place: Place, batch_size: int, *, seed: int, epochs: int | None = None
) -> Loader:
    return Loader(
        samples,
        StoreSource(place.store),
        batch_size=batch_size,
        seed=seed,
        rank=engine.data_rank,
        world_size=engine.data_world,
        epochs=epochs,
        cache=place.cache,
        device=engine.device,
    )


def _validation_loss(engine: Engine, problem: Problem, rank: Rank, place: Place, batch_size: int) -> float:
    """Mean loss over all validation samples, each data rank taking its share; all are asked equally often."""
    samples, total, count = problem.validation, 0.0, 0.0
    loader = _loader(samples, engine, place, batch_size, seed=0, epochs=1)
    own = share(batch_size, engine.data_rank, engine.data_world)
    with loader:
        for batch in _timed(loader, place.watch):
            # The last batch is filled up, with samples that came before: they do not count again. A pipeline's
            # microbatches have one size, so there they do.
            is_whole = (batch.step + 1) * batch_size <= samples.num_samples or engine.layout.stages > 1
            new = slice(0, own.stop - own.start) if is_whole else _new(samples.num_samples, batch_size, own)
            rows = new.stop - new.start
            # Who has none left still takes part, with one that does not count.
            chosen = new if rows else slice(0, 1)
            inputs, targets = problem.divide({name: tensor[chosen] for name, tensor in batch.tensors.items()})
            with place.watch.phase("compute"):
                total += engine.evaluate(inputs, targets) * rows
            count += rows
    total, count = rank.total(total, count)
    return total / count


def _timed(loader: Loader, watch: Stopwatch) -> Iterator[Batch]:
    batches = iter(loader)
    while True:
        with watch.phase("data_wait"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _new(num_samples: int, batch_size: int, own: slice) -> slice:
    """Of this rank's rows of a last, filled batch, those that were in none before."""
    first, last = (0, num_samples) if num_samples < batch_size else (batch_size - num_samples % batch_size, batch_size)
    start, stop = max(own.start, first), min(own.stop, last)
    return slice(start - own.start, max(start, stop) - own.start)


def _speed(pipeline: Pipeline, problem: Problem, rank: Rank) -> Speed:
    spec = pipeline.spec
    with torch.device("meta"):
        module = pipeline.build_model(problem.inputs, spec.model.options)
    plan = pipeline.parallel_plan(problem.inputs)
    return Speed.of(module, plan, rank.world_size, rank.device, spec.training.precision)


def _draw_from(seed: int, device: torch.device) -> None:
    # torch.manual_seed formats a stack trace for each kind of accelerator that is not in use, in every step.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def _seed(*parts: int) -> int:
    return int(digest_json(list(parts))[:15], 16)


def _where(batch: Batch) -> str:
    return f"batch {batch.step} of the run, in epoch {batch.epoch + 1}"


def _require_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss of {where} is not finite",
            got=loss,
            next="lower training.learning_rate, or look for extreme values in the data; the last checkpoint is kept",
        )
