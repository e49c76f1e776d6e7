"""Whether the accounts of a training's time are right: real runs with killed and hung workers, against a clock outside.

The clock is this process's, around the whole training; worker-seconds by class must add up to it times the workers.
"""

from __future__ import annotations

import signal
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.parts import Tell
from benchmarks.training.scene import Scene, scene
from millrace.goodput import CLASSES, Goodput
from ray_jobs.train.run import train
from ray_jobs.train.stopwatch import Stopwatch

WORKERS, STEPS = 2, 160
#: What is done to a worker, one after the other, each once steps are taken again.
RUNS: tuple[tuple[signal.Signals, ...], ...] = (
    (),
    (signal.SIGKILL,),
    (signal.SIGSTOP,),
    (signal.SIGTERM,),
    (signal.SIGKILL, signal.SIGTERM),
)


def measure(tell: Tell) -> dict[str, Any]:
    """`goodput_unexplained`, the largest share of the time that is in no class or in two; and what each loss cost."""
    runs = []
    with scene(WORKERS + 1) as place:
        for number, strikes in enumerate(RUNS):
            runs.append(_run(place, f"run-{number}", strikes))
            told = runs[-1]
            tell(f"goodput: {' '.join(told['strikes']) or 'nothing'}: {told['unexplained']:.4%} unexplained, {told}")
    step_seconds = statistics.median(run["step_seconds"] for run in runs)
    return {
        "goodput_unexplained": max(abs(run["unexplained"]) for run in runs),
        "goodput_cost": _cost() / step_seconds,
        "goodput": {"runs": runs, "workers": WORKERS, "hang_found_seconds": _hang(runs)},
    }


def _run(place: Scene, holder: str, strikes: tuple[signal.Signals, ...]) -> dict[str, Any]:
    pipeline = place.pipeline(
        num_workers=WORKERS,
        batch_size=512,
        max_steps=STEPS,
        epochs=1000,
        validate_every_steps=20,
        checkpoint_every_steps=10,
        max_failures=3,
    )
    request = place.request(pipeline, holder)
    checkpoints = Path(place.settings.objects) / request.checkpoint_prefix
    gone: list[float] = []
    striker = threading.Thread(target=_strike, args=(checkpoints, strikes, gone), daemon=True)
    striker.start()
    began = time.perf_counter()
    try:
        result = train(request, pipeline)
    finally:
        place.release(request)
    wall = time.perf_counter() - began
    striker.join(5)
    found = Goodput.of(result.attempts)
    accounted = sum(found.seconds.values())
    steps = [each.workers[0].seconds.get("compute", 0.0) for each in result.attempts if 0 in each.workers]
    return {
        "strikes": [strike.name for strike in strikes],
        "outcomes": [attempt.outcome for attempt in result.attempts],
        "resumed_steps": [attempt.resumed_step for attempt in result.attempts],
        "wall_seconds": wall,
        "unexplained": 1 - accounted / (wall * WORKERS),
        "shares": {name: found.seconds[name] / accounted for name in CLASSES},
        "gone_after_seconds": gone,
        "step_seconds": sum(steps) / STEPS,
    }


def _strike(checkpoints: Path, strikes: tuple[signal.Signals, ...], gone: list[float]) -> None:
    """Strike a worker each time a new attempt has taken a checkpoint."""
    generation = 0
    for strike in strikes:
        while (newest := _generation(checkpoints)) <= generation:
            time.sleep(0.1)
        generation = newest
        workers = [each for each in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(_line(each))]
        worker = max(workers, key=lambda each: each.pid)
        began = time.perf_counter()
        worker.send_signal(strike)
        while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
        gone.append(time.perf_counter() - began)


def _line(process: psutil.Process) -> list[str]:
    return process.info["cmdline"] or []


def _generation(checkpoints: Path) -> int:
    return max((int(path.parent.name[1:7]) for path in checkpoints.glob("g*-s*/manifest.json")), default=0)


def _hang(runs: list[dict[str, Any]]) -> float | None:
    """Seconds from the moment a worker stopped until it was found, named and ended."""
    found = [seconds for run in runs if run["strikes"] == ["SIGSTOP"] for seconds in run["gone_after_seconds"]]
    return max(found) if found else None


def _cost() -> float:
    """Seconds that a step's accounts take: four phases, and its share of two beats a second."""
    watch, rounds = Stopwatch(), 20_000
    began = time.perf_counter()
    for step in range(rounds):
        for phase in ("data_wait", "compute", "checkpoint", "compute"):
            with watch.phase(phase, step):
                pass
    return (time.perf_counter() - began) / rounds
