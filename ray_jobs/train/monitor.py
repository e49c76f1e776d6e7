"""Watches the workers of a training from outside: who hangs is named and ended, and where their time went is kept."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from millrace.errors import MillraceError
from millrace.faults import fault_point
from millrace.goodput import Attempt, Worker
from millrace.logs import get_logger
from ray_jobs.train.beats import Beat, Hang, find_hang
from ray_jobs.train.growth import Growth

_LOOK_SECONDS = 0.5
_KEEP_SECONDS = 15.0
_ANSWER_SECONDS = 5.0


#: Told of each validation, in order. Ray's own report is a barrier of all workers that takes its controller a second.
Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True)
class Told:
    """By rank, how many seconds ago a beat came, and what; and what validations since the last look measured."""

    beats: Mapping[int, tuple[float, Beat]]
    rounds: Sequence[Mapping[str, float]]


class Desk:
    """Takes the workers' beats; an actor on the cluster, which knows only what is newest."""

    def __init__(self) -> None:
        self._beats: dict[int, tuple[float, Beat]] = {}
        self._attempt = -1
        self._called_off = -1
        self._rounds: list[Mapping[str, float]] = []

    def put(self, beat: Beat) -> bool:
        """Whether that attempt is called off. A beat of an earlier one is forgotten."""
        if beat.attempt > self._attempt:
            self._attempt, self._beats = beat.attempt, {}
        if beat.attempt == self._attempt:
            self._beats[beat.rank] = (time.time(), beat)
        return beat.attempt <= self._called_off

    def call_off(self, attempt: int) -> None:
        """The workers of this attempt are to leave; they are told when they put their next beats."""
        self._called_off = attempt

    def tell(self, metrics: Mapping[str, float]) -> None:
        """What a validation measured."""
        self._rounds.append(metrics)

    def read(self) -> Told:
        """The newest beats, and each validation once."""
        now, rounds = time.time(), self._rounds
        self._rounds = []
        return Told({rank: (now - came, beat) for rank, (came, beat) in self._beats.items()}, rounds)


@dataclass
class Seen:
    """What was found out about an attempt; who runs it says by its `outcome` if it did not fail."""

    attempt: Attempt
    outcome: str = "failed"
    hang: Hang | None = None
    is_called_off: bool = False
    progress: int = 0
    beats: Mapping[int, Beat] = field(default_factory=dict)
    ages: Mapping[int, float] = field(default_factory=dict)

    @property
    def has_stepped(self) -> bool:
        """Whether a step was taken in this attempt, not only in those before it."""
        return self.progress > (self.attempt.resumed_step or 0)

    def heard(self, beats: Mapping[int, tuple[float, Beat]]) -> None:
        """Take in what the desk has."""
        now = time.time()
        mine = {rank: each for rank, each in beats.items() if each[1].attempt == self.attempt.number}
        self.ages = {rank: age for rank, (age, _) in mine.items()}
        if not mine:
            return
        self.beats = {rank: beat for rank, (_, beat) in mine.items()}
        workers = {
            rank: Worker(now - age, beat.reading.seconds, beat.reading.marks) for rank, (age, beat) in mine.items()
        }
        steps = [beat.resumed_step for beat in self.beats.values() if beat.resumed_step is not None]
        self.progress = max(beat.reading.step for beat in self.beats.values())
        self.attempt = replace(
            self.attempt,
            world_size=max(beat.world_size for beat in self.beats.values()),
            ended=now,
            workers=workers,
            resumed_step=min(steps) if steps else None,
        )


@contextmanager
def watching(
    desk: Any, attempt: Attempt, keep: Callable[[Attempt], None], report: Report, growth: Growth | None = None
) -> Iterator[Seen]:
    """While the block runs: look at the desk, end who hangs, give the attempt to `keep` at times and at the end.

    With `growth`, the attempt is called off when it could begin again in more workers.
    """
    seen, ended = Seen(attempt), threading.Event()
    thread = threading.Thread(
        target=_watch, args=(desk, seen, ended, keep, report, growth), name="monitor", daemon=True
    )
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        _look(desk, seen, report)
        seen.attempt = replace(seen.attempt, ended=time.time(), outcome=seen.outcome)
        _keep(keep, seen.attempt)


def _watch(
    desk: Any,
    seen: Seen,
    ended: threading.Event,
    keep: Callable[[Attempt], None],
    report: Report,
    growth: Growth | None,
) -> None:
    kept = time.monotonic()
    while not ended.wait(_LOOK_SECONDS):
        _look(desk, seen, report)
        if seen.hang is None and (hang := find_hang(seen.beats, seen.ages)) is not None:
            seen.hang = hang
            get_logger().warning("the training hangs", who=str(hang), next="these workers are ended and replaced")
            for rank in hang.ranks:
                _end(seen.beats[rank])
        if growth is not None and seen.has_stepped and not seen.is_called_off:
            seen.is_called_off = growth.is_due(seen.attempt.world_size, time.monotonic())
        if seen.is_called_off:
            # At each look: a desk that moved to another node has forgotten it.
            desk.call_off.remote(seen.attempt.number)
        if time.monotonic() - kept > _KEEP_SECONDS:
            kept = time.monotonic()
            _keep(keep, seen.attempt)


def _keep(keep: Callable[[Attempt], None], attempt: Attempt) -> None:
    """A training that is done, or ends for a reason of its own, does not end for its accounts."""
    try:
        keep(attempt)
    except MillraceError as error:
        get_logger().warning("where the time went is not kept", attempt=attempt.number, error=str(error))


def _look(desk: Any, seen: Seen, report: Report) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        with fault_point("ray.desk"):
            told: Told = ray.get(desk.read.remote(), timeout=_ANSWER_SECONDS)
    except RayError as error:
        # It may be moving to another node; workers tell it everything again, twice a second.
        get_logger().debug("the desk does not answer", error=str(error))
        return
    seen.heard(told.beats)
    for metrics in told.rounds:
        report(metrics)


def _end(beat: Beat) -> None:
    """Kill the worker's process, from a task on its node: it may not listen to anybody itself."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(node_id=beat.node, soft=False)
    ray.remote(num_cpus=0, max_retries=0)(kill).options(scheduling_strategy=where).remote(beat.pid)


def kill(pid: int) -> None:
    """End a process of this machine at once."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        get_logger().info("a worker that hung has ended by itself", pid=pid)
