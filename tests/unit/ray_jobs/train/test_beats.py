"""Who hangs is named, and nobody else."""

from __future__ import annotations

import queue
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.train import beats
from ray_jobs.train.beats import PATIENCE_SECONDS, Beat, Pulse, find_hang
from ray_jobs.train.stopwatch import Phase, Reading, Stopwatch

WAITING = ("loop.py:1 in _run", "site-packages/torch/autograd/graph.py:9 in _engine_run_backward")
BUSY = ("loop.py:1 in _run", "model.py:7 in forward")


def beat(
    rank: int,
    step: int = 20,
    *,
    phase: Phase = "compute",
    since: float = 0.1,
    median: float = 0.5,
    stack: tuple[str, ...] = (),
    ended: bool = False,
) -> Beat:
    reading = Reading({}, phase, since, step, median)
    return Beat(0, rank, 4, "node", 100 + rank, reading, 0, stack, ended)


def found(*beats: Beat, ages: dict[int, float] | None = None) -> tuple[int, ...] | None:
    hang = find_hang({each.rank: each for each in beats}, {each.rank: 0.0 for each in beats} | (ages or {}))
    return None if hang is None else hang.ranks


@given(st.floats(0, PATIENCE_SECONDS + 1.5), st.sampled_from([WAITING, BUSY, ()]))
def test_a_slow_step_is_no_hang(since: float, stack: tuple[str, ...]) -> None:
    assert found(beat(0, since=since, stack=stack), beat(1, 19)) is None


def test_who_is_not_heard_of_hangs() -> None:
    assert found(beat(0, since=9.0, stack=WAITING), beat(1), ages={1: 9.0}) == (1,)


def test_who_has_ended_is_not_waited_for() -> None:
    assert found(beat(0), beat(1, ended=True), ages={1: 1000.0}) is None


def test_who_is_a_step_behind_hangs() -> None:
    assert found(beat(0, 20, since=12.0, stack=WAITING), beat(1, 19, since=12.0, stack=BUSY)) == (1,)


def test_who_computes_while_others_wait_for_it_hangs() -> None:
    ranks = [beat(rank, since=12.0, stack=BUSY if rank == 2 else WAITING) for rank in range(4)]
    assert found(*ranks) == (2,)
    hang = find_hang({each.rank: each for each in ranks}, dict.fromkeys(range(4), 0.0))
    assert str(hang) == "rank 2 for 12 s: rank 2 in compute of step 20 at model.py:7 in forward"


def test_who_waits_for_data_keeps_the_others_waiting() -> None:
    assert found(beat(0, since=12.0, stack=WAITING), beat(1, phase="data_wait", since=12.0)) == (1,)


def test_when_all_wait_all_are_named() -> None:
    assert found(*(beat(rank, since=12.0, stack=WAITING) for rank in range(2))) == (0, 1)


def test_long_steps_are_given_longer() -> None:
    assert found(beat(0, since=60.0, median=20.0), beat(1, median=20.0)) is None
    assert found(beat(0, since=69.0, median=20.0), beat(1, 19, median=20.0)) == (1,)
    assert found(beat(0, since=200.0, median=0.0), beat(1, median=0.0)) is None, "it compiles"


def test_a_worker_that_starts_may_be_silent_for_longer() -> None:
    starting = beat(1, 0, phase="start", median=0.0)
    assert found(beat(0, 0, phase="start", median=0.0), starting, ages={1: 20.0}) is None
    assert found(beat(0, 0, phase="start", median=0.0), starting, ages={1: 31.0}) == (1,)


def test_a_pulse_tells_where_the_code_stands() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    sent, arrived = [], threading.Event()

    def send(told: Beat) -> None:
        sent.append(told)
        arrived.set()

    pulse = Pulse(send, watch, attempt=3, rank=1, world_size=2, node="n", pid=7)
    try:
        with watch.phase("compute", 9):
            now[0] = 5.0
            arrived.clear()
            assert arrived.wait(10)
    finally:
        last = pulse.close()
    stuck = next(each for each in sent if each.reading.phase_seconds == 5.0)
    assert (stuck.attempt, stuck.rank, stuck.reading.phase, stuck.reading.step) == (3, 1, "compute", 9)
    assert "threading.py" in stuck.stack[-1]
    assert any("test_beats.py" in frame for frame in stuck.stack)
    assert last.has_ended
    assert last.reading.seconds["compute"] == pytest.approx(5.0)


def test_what_matters_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "BEAT_SECONDS", 3600.0)
    sent: queue.SimpleQueue[Beat] = queue.SimpleQueue()
    watch = Stopwatch()
    pulse = Pulse(sent.put, watch, attempt=0, rank=0, world_size=1, node="n", pid=7)
    try:
        watch.resumed(40)
        assert sent.get(timeout=10).resumed_step == 40
        with watch.phase("compute", 41):
            pass
        first = sent.get(timeout=10)
        assert (first.reading.step, first.reading.step_seconds > 0) == (41, True)
    finally:
        assert pulse.close().has_ended
