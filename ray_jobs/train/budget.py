"""How often a training may lose its workers, and what is not tried again at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from millrace.errors import MillraceError, TrainingError
from millrace.logs import get_logger
from ray_jobs.train.monitor import Seen
from ray_jobs.train.notice import PreemptedError
from ray_jobs.train.request import TrainRequest

Kind = Literal["failed", "preempted", "hung", "resized"]
#: Whose fault it is that workers left with notice: nobody's. So many in a row without a step are another thing.
_MOST_WITHOUT_A_STEP = 10


@dataclass(frozen=True)
class Loss:
    """Why an attempt ended before the training was done, in words, and what was seen of it."""

    kind: Kind
    reason: str
    seen: Seen


class Budget:
    """Losses that a run may still have. Leaving with notice takes none, as long as steps are taken in between."""

    def __init__(self, most: int) -> None:
        self._most, self._spent = most, 0
        self._without_a_step = 0

    def spend(self, loss: Loss, request: TrainRequest) -> None:
        """Allow another attempt after `loss`.

        Raises:
            TrainingError: there have been too many.
        """
        self._without_a_step = 0 if loss.seen.has_stepped else self._without_a_step + 1
        self._spent += loss.kind in ("failed", "hung")
        what = f"training run {request.key} of '{request.pipeline_name}'"
        if self._spent > self._most:
            raise TrainingError(
                f"{what} failed after {self._most} restarts",
                got=loss.reason,
                next="run it again: it goes on after its last checkpoint; or raise training.max_failures",
            )
        if self._without_a_step > _MOST_WITHOUT_A_STEP:
            raise TrainingError(
                f"{what} lost its workers {self._without_a_step} times in a row before they took a step",
                got=loss.reason,
                next="look for nodes that leave as soon as they come; then run it again: it goes on where it is",
            )
        if loss.kind == "resized":
            get_logger().info("the training begins again in more workers", run=request.key, at_step=loss.seen.progress)
            return
        get_logger().warning(
            "the training lost workers and goes on",
            run=request.key,
            kind=loss.kind,
            reason=loss.reason,
            at_step=loss.seen.progress,
            losses=f"{self._spent} of {self._most}",
        )


def loss_of_workers(error: Exception, seen: Seen) -> Loss:
    """What the workers' failures, as Ray tells them, mean.

    Raises:
        MillraceError: one of ours that trying again does not help.
    """
    failures = dict(getattr(error, "worker_failures", {}))
    causes = [cause for failure in failures.values() for cause in _causes(failure)]
    ours = [cause for cause in causes if isinstance(cause, MillraceError)]
    for cause in ours:
        if not cause.retryable:
            raise cause
    if seen.hang is not None:
        return Loss("hung", str(seen.hang), seen)
    if left := next((cause for cause in ours if isinstance(cause, PreemptedError)), None):
        return Loss("resized" if seen.is_called_off else "preempted", left.what, seen)
    first = "; ".join(f"rank {rank}: {type(failure).__name__}: {failure}" for rank, failure in failures.items())
    return Loss("failed", first or str(error), seen)


def _causes(failure: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = failure
    while cause is not None:
        yield cause
        cause = getattr(cause, "cause", None) or cause.__cause__
