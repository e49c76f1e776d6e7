"""Checkpoints of a run under way: when to take one, what it holds, and how a run goes on from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist

from millrace.errors import ArtifactError, MillraceError
from millrace.loader import Loader
from millrace.storage import ObjectStore
from ray_jobs.train.checkpoints.checkpoints import Checkpoints, Loaded
from ray_jobs.train.checkpoints.interval import FailureRate, every_steps
from ray_jobs.train.layout.engine import Engine
from ray_jobs.train.layout.gradients import LossScale
from ray_jobs.train.position import Position

#: What a save is taken to cost before the first one is measured, in seconds: from the training, and until its commit.
_GUESS_SECONDS = (1.0, 10.0)
_SMOOTHING = 0.3


class Saver:
    """Takes checkpoints of `engine` and `loader` under `prefix`, beside the training.

    All ranks call everything at the same time, but for `is_due`, which one asks for all.

    Args:
        every: Steps between checkpoints; None: what the measured cost of a save and the rate of failures make best.
        rate: What is believed of failures.
        prove: Raises when this run may no longer publish.
        group: Ranks that save together, see Checkpoints.
    """

    def __init__(
        self,
        engine: Engine,
        loader: Loader,
        store: ObjectStore,
        prefix: str,
        *,
        every: int | None,
        rate: FailureRate,
        prove: Callable[[], None],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._engine, self._loader, self._prefix = engine, loader, prefix
        self._every, self._rate, self._began = every, rate, time.monotonic()
        self._checkpoints = Checkpoints(store, prefix, keep=2, prove=prove, group=group)
        self._saved_step = 0
        self._blocking, self._total = _GUESS_SECONDS
        self._started: float | None = None
        self._step_seconds = 0.0

    def resume(self) -> Position:
        """Have engine and loader go on where the newest checkpoint was taken; the start where there is none.

        Raises:
            ArtifactError: it is of another model; the engine is as it was.
            SignatureError, DigestError: it is not what somebody trusted committed.
            ConflictError: it was taken in other data.
        """
        state = flat(self._engine.state())
        loaded = self._checkpoints.load_into(state)
        if loaded is None:
            return Position()
        try:
            extra = dict(loaded.extra)
            position, scale = Position.from_dict(extra["position"]), LossScale(**extra["scale"])
            if position.step != loaded.step:
                raise ValueError(f"it says that it is of step {position.step}")
            _require_numbers(state)
            self._loader.load_state_dict(extra["loader"])
            self._engine.load(parts(state))
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise _unfit(loaded, self._prefix, error) from error
        self._engine.scale = scale
        self._saved_step = position.step
        return position

    def stepped(self, seconds: float) -> None:
        """A step took so long, without what was waited for."""
        known = self._step_seconds
        self._step_seconds = seconds if known == 0 else known + _SMOOTHING * (seconds - known)
        if self._started is not None and not self._checkpoints.is_saving:
            self._total = time.monotonic() - self._started
            self._started = None

    def is_due(self, step: int) -> bool:
        """Whether it is time for a checkpoint after `step` steps."""
        return step - self._saved_step >= self.interval()

    def interval(self) -> int:
        """Steps between checkpoints, by what is known of their cost."""
        if self._every is not None:
            return self._every
        rate = self._rate.seen(0, time.monotonic() - self._began)
        return every_steps(self._blocking, self._total, max(self._step_seconds, 1e-6), rate)

    def save(self, position: Position) -> None:
        """Begin a checkpoint at `position`. What the last one met is raised here."""
        if position.step == self._saved_step and position.step:
            self._checkpoints.wait()
            if position.best_step != position.step:
                return
        began = time.monotonic()
        extra = {
            "position": position.as_dict(),
            "loader": self._loader.state_dict(),
            "scale": asdict(self._engine.scale),
        }
        self._checkpoints.save_async(position.step, flat(self._engine.state()), extra, also=position.best_step or None)
        self._blocking += _SMOOTHING * (time.monotonic() - began - self._blocking)
        self._saved_step, self._started = position.step, began

    def wait(self) -> None:
        """Until what was begun is committed."""
        self._checkpoints.wait()

    def best(self, position: Position) -> dict[str, torch.Tensor]:
        """The whole model at its best validation, on the CPU of the first rank; the engine holds it from now on.

        Raises:
            ArtifactError: it is gone.
        """
        self._checkpoints.wait()
        if position.best_step != position.step:
            state = flat(self._engine.state())
            self._checkpoints.load_into(state, at=position.best_step)
            self._engine.load(parts(state))
        return self._engine.whole_state()["model"]

    def close(self) -> None:
        self._checkpoints.close()

    def abandon(self) -> None:
        """Close after an error; what the save in flight met is said, and does not hide that error."""
        from millrace.logs import get_logger

        try:
            self._checkpoints.close()
        except MillraceError as error:
            get_logger().warning("the last checkpoint was not committed", prefix=self._prefix, error=str(error))


def flat(state: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """The engine's state as tensors by one name each."""
    return {
        f"{part}/{name}": torch.as_tensor(value) for part, values in state.items() for name, value in values.items()
    }


def parts(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What `flat` took apart."""
    found: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}}
    for name, value in state.items():
        part, _, rest = name.partition("/")
        found[part][rest] = value
    return found


def _require_numbers(state: Mapping[str, torch.Tensor]) -> None:
    """Refuse what no training goes on from."""
    from torch.distributed.tensor import DTensor

    for name, tensor in state.items():
        mine = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if mine.is_floating_point() and bool(torch.isnan(mine).any()):
            raise ValueError(f"tensor {name} holds NaN")


def _unfit(loaded: Loaded, prefix: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"checkpoint {loaded.artifact.key} does not fit the model", got=str(error), next=f"delete the prefix {prefix}"
    )
