"""What workers tell of themselves while they train, and who of them does not come along."""

from __future__ import annotations

import statistics
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_jobs.train.stopwatch import Reading, Stopwatch

BEAT_SECONDS = 0.5
#: A step that takes so much longer than three median ones is no step.
PATIENCE_SECONDS = 8.0
#: Before the first step is measured: it compiles, allocates, and meets the others.
_FIRST_STEP_SECONDS = 300.0
_SILENT_SECONDS = 8.0
#: While it starts, a worker imports what holds Python's lock for long.
_SILENT_AT_START_SECONDS = 30.0
_LOOK_AT_STACK_SECONDS = 3.0
_WAITING = f"{Path('torch')}/"


@dataclass(frozen=True)
class Beat:
    """Of one worker of an attempt: where it runs, what its stopwatch says, and where its code stands if that is long.

    `resumed_step` is None until it has gone on from a checkpoint, or begun.
    """

    attempt: int
    rank: int
    world_size: int
    node: str
    pid: int
    reading: Reading
    resumed_step: int | None = None
    stack: tuple[str, ...] = ()
    has_ended: bool = False


@dataclass(frozen=True)
class Hang:
    """Workers that keep the others waiting, by rank, and what each was seen at."""

    ranks: tuple[int, ...]
    seconds: float
    at: Mapping[int, str]

    def __str__(self) -> str:
        who = "rank " + ", ".join(map(str, self.ranks)) if len(self.ranks) == 1 else f"ranks {list(self.ranks)}"
        return f"{who} for {self.seconds:.0f} s: " + "; ".join(self.at[rank] for rank in self.ranks)


def find_hang(beats: Mapping[int, Beat], ages: Mapping[int, float]) -> Hang | None:
    """Who hangs, if a step of somebody takes longer than PATIENCE_SECONDS and three median steps.

    Those are named who were not heard of; else who is at an earlier step than the others; else whose code stands
    outside of torch, that is who does not wait for others itself; else all.

    Args:
        beats: The newest one of each rank.
        ages: Seconds since it came.
    """
    alive = {rank: beat for rank, beat in beats.items() if not beat.has_ended}
    silent = {
        rank: ages[rank]
        for rank, beat in alive.items()
        if ages[rank] > (_SILENT_SECONDS if _has_stepped(beat) else _SILENT_AT_START_SECONDS)
    }
    if silent:
        return Hang(tuple(silent), max(silent.values()), dict.fromkeys(silent, "nothing was heard of it"))
    waits = {
        rank: beat.reading.phase_seconds + ages[rank] for rank, beat in alive.items() if beat.reading.phase == "compute"
    }
    medians = [beat.reading.step_seconds for beat in alive.values() if _has_stepped(beat)]
    bound = PATIENCE_SECONDS + 3 * statistics.median(medians) if medians else _FIRST_STEP_SECONDS
    if not waits or max(waits.values()) <= bound:
        return None
    last = max(beat.reading.step for beat in alive.values())
    behind = [rank for rank, beat in alive.items() if beat.reading.step < last or rank not in waits]
    busy = [rank for rank in waits if not _waits(alive[rank])]
    named = tuple(sorted(behind or busy or waits))
    return Hang(named, max(waits.values()), {rank: _seen(alive[rank]) for rank in named})


class Pulse:
    """Sends beats from a thread of its own, twice a second and when there is news, until it is closed.

    `send` must not block for long.
    """

    def __init__(
        self, send: Any, watch: Stopwatch, *, attempt: int, rank: int, world_size: int, node: str, pid: int
    ) -> None:
        self._send, self._watch = send, watch
        self._attempt, self._rank, self._world_size = attempt, rank, world_size
        self._node, self._pid = node, pid
        self._thread_id = threading.get_ident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def beat(self, has_ended: bool = False) -> Beat:
        """What there is to tell now."""
        reading = self._watch.read()
        stack = self._stack() if reading.phase_seconds > _LOOK_AT_STACK_SECONDS else ()
        return Beat(
            self._attempt,
            self._rank,
            self._world_size,
            self._node,
            self._pid,
            reading,
            self._watch.resumed_step,
            stack,
            has_ended,
        )

    def close(self) -> Beat:
        """Stop; the last beat, for whoever sends it for sure."""
        self._ended.set()
        self._watch.news.set()
        self._thread.join()
        return self.beat(has_ended=True)

    def _run(self) -> None:
        while True:
            self._watch.news.wait(BEAT_SECONDS)
            self._watch.news.clear()
            if self._ended.is_set():
                return
            self._send(self.beat())

    def _stack(self) -> tuple[str, ...]:
        frame = sys._current_frames().get(self._thread_id)
        found = traceback.extract_stack(frame, 400) if frame is not None else []
        return tuple(f"{each.filename}:{each.lineno} in {each.name}" for each in found[-6:])


def _has_stepped(beat: Beat) -> bool:
    return beat.reading.step_seconds > 0


def _waits(beat: Beat) -> bool:
    return bool(beat.stack) and _WAITING in beat.stack[-1]


def _seen(beat: Beat) -> str:
    reading = beat.reading
    where = f" at {beat.stack[-1]}" if beat.stack else ""
    return f"rank {beat.rank} in {reading.phase} of step {reading.step}{where}"
