"""Where the time of a training's workers went: every second of every worker, of all attempts, in one of six classes.

compute: steps and validations that counted. data_wait: waiting for batches. checkpoint: what saves took from the
training. restart: from a loss until steps are taken again. lost: steps that had to be done again. idle: starting for
the first time, and waiting for others at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

CLASSES = ("compute", "data_wait", "checkpoint", "restart", "lost", "idle")
_WORK = ("compute", "data_wait", "checkpoint")

Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Worker:
    """What was last heard of one worker of an attempt.

    Args:
        heard: Seconds since 1970 at which it was heard.
        seconds: By phase of its stopwatch, from its start until then.
        marks: The same, when the state of a step was taken for a checkpoint, by step.
    """

    heard: float
    seconds: Seconds
    marks: Mapping[int, Seconds] = field(default_factory=dict)

    @property
    def began(self) -> float:
        return self.heard - sum(self.seconds.values())


@dataclass(frozen=True)
class Attempt:
    """One start of all workers, until it ended or the next one began; times in seconds since 1970.

    Args:
        resumed_step: The step after which it went on; None: it never came so far.
        outcome: `running`, `finished`, or why it ended: `failed`, `preempted`, `hung`.
    """

    number: int
    world_size: int
    began: float
    ended: float
    workers: Mapping[int, Worker]
    resumed_step: int | None = None
    outcome: str = "running"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """What `as_dict` gave, perhaps through JSON."""
        workers = {
            int(rank): Worker(
                float(worker["heard"]),
                dict(worker["seconds"]),
                {int(step): dict(mark) for step, mark in worker["marks"].items()},
            )
            for rank, worker in document["workers"].items()
        }
        return cls(**{**document, "workers": workers})


@dataclass(frozen=True)
class Goodput:
    """Worker-seconds by class, of each attempt; `wall_seconds` times workers is what they add up to."""

    attempts: tuple[Attempt, ...]
    by_attempt: tuple[Seconds, ...]

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Self:
        """From all attempts of a run. One that did not end lasts until the next one begins."""
        ordered = sorted(attempts, key=lambda attempt: attempt.number)
        return cls(tuple(ordered), tuple(_classes(*each) for each in _windows(ordered)))

    @property
    def seconds(self) -> dict[str, float]:
        """Worker-seconds by class."""
        return {name: sum(each[name] for each in self.by_attempt) for name in CLASSES}

    @property
    def worker_seconds(self) -> float:
        """Wall time, each moment times the workers there were."""
        return sum(
            attempt.world_size * (end - attempt.began)
            for attempt, (_, end, _) in zip(self.attempts, _windows(self.attempts), strict=True)
        )

    @property
    def share(self) -> float:
        """Share of the time that was spent on steps that counted."""
        return self.seconds["compute"] / total if (total := self.worker_seconds) else 0.0

    @property
    def unexplained(self) -> float:
        """Share of the time that is in no class; negative: some is in two."""
        total = self.worker_seconds
        return 1 - sum(self.seconds.values()) / total if total else 0.0

    def metrics(self, price_per_hour: float) -> dict[str, float]:
        """For a registry: `goodput`, and worker-seconds and money by class, at a price of one worker for an hour."""
        found = {"goodput": self.share, "goodput_attempts": float(len(self.attempts))}
        for name, seconds in self.seconds.items():
            found[f"goodput_{name}_seconds"] = seconds
            found[f"goodput_{name}_cost"] = seconds / 3600 * price_per_hour
        return found


def _windows(attempts: Sequence[Attempt]) -> Iterator[tuple[Attempt, float, Attempt | None]]:
    """Each attempt, when it was over, and the one that came after it."""
    following = [*attempts[1:], None][: len(attempts)]
    for attempt, after in zip(attempts, following, strict=True):
        yield attempt, attempt.ended if after is None else after.began, after


def _classes(attempt: Attempt, end: float, after: Attempt | None) -> dict[str, float]:
    found = dict.fromkeys(CLASSES, 0.0)
    starting = "idle" if attempt.number == 0 else "restart"
    ending = "idle" if after is None else "restart"
    for rank in range(attempt.world_size):
        worker = attempt.workers.get(rank)
        if worker is None:
            found[starting] += end - attempt.began
            continue
        # Clocks of machines differ a little: what is heard is put inside the attempt.
        heard = min(max(worker.heard, attempt.began), end)
        total = sum(worker.seconds.values())
        scale = min(1.0, (heard - attempt.began) / total) if total else 0.0
        found[starting] += heard - attempt.began - total * scale
        found[starting] += worker.seconds.get("start", 0.0) * scale
        found["idle"] += worker.seconds.get("idle", 0.0) * scale
        for name in _WORK:
            spent = worker.seconds.get(name, 0.0) * scale
            kept = spent * _kept(attempt, worker, name, after)
            found[name] += kept
            found["lost"] += spent - kept
        found[ending] += end - heard
    return found


def _kept(attempt: Attempt, worker: Worker, name: str, after: Attempt | None) -> float:
    """Share of a phase that the next attempt did not have to do again."""
    spent = worker.seconds.get(name, 0.0)
    if after is None or after.resumed_step is None or not spent:
        return 1.0
    if after.resumed_step <= (attempt.resumed_step or 0):
        return 0.0
    marks = [step for step in worker.marks if step <= after.resumed_step]
    return min(1.0, worker.marks[max(marks)].get(name, 0.0) / spent) if marks else 0.0
