"""Runs flows in processes that die: the real flows, tasks, ledger, storage and reconciler, over doubles of the rest.

Each flow run is a forked child; a fault kills it for real (SIGKILL), so nothing of it is cleaned up. This process plays
the worker, which starts what is scheduled and may report a death or not, and the reconciler, on a clock of its own.
"""

from __future__ import annotations

import importlib
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from millrace import provenance
from millrace.faults import FOLDER, Fault, Schedule
from millrace.ledger import Ledger
from millrace.package import load_predictor
from millrace.settings import Settings
from tasks.reconciler import Responder
from tasks.reviving import Reviver
from tests.chaos.outside import MlflowClient, PrefectApi, Serve
from tests.chaos.world import PIPELINE, World
from tests.waiting import until

_RUN = "_MILLRACE_CHAOS_RUN"
# Imported ahead, so that a child begins at once.
_LIBRARIES = (
    "flows.training",
    "flows.monitoring",
    "flows.respond",
    "flows.rollback",
    "mlflow.models",
    "mlflow.entities",
    "pyarrow.parquet",
    "ray.train.torch",
    "safetensors.torch",
    "torch._dynamo",
)
_MOST_STARTS = 60
_MOST_SECONDS = 120.0
_STEP_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Start:
    """A flow run that somebody asks for."""

    flow: str
    parameters: tuple[tuple[str, str], ...]
    key: str


#: What happens in a pipeline's life, part by part: a part begins where the one before ended.
PARTS: dict[str, Start] = {
    "train": Start("training", (("pipeline", PIPELINE), ("as_of", "2024-02-01T00:00:00+00:00")), "first"),
    "check": Start("monitoring", (("pipeline", PIPELINE), ("as_of", "2024-03-01T00:00:00+00:00")), "check"),
    "rollback": Start("rollback", (("pipeline", PIPELINE),), "back"),
}


def play(world: World, part: str, faults: Sequence[Fault] = (), *, seed: int = 0) -> Schedule:
    """Let a part of the pipeline's life happen under `faults`, until nothing is left to do.

    Raises:
        AssertionError: it never comes to rest.
    """
    schedule = Schedule(world.folder / "faults", tuple(faults))
    schedule.write()
    chance = random.Random(seed)
    with _doubled(world) as clock:
        ledger = Ledger(world.settings.ledger)
        reviver, responder = Reviver(world.settings, ledger, clock), Responder(world.settings, ledger, clock)
        zombies: list[int] = []
        _ask_for(world, PARTS[part])
        try:
            for _ in range(_MOST_STARTS):
                _deliver_events(world, chance)
                for run in _scheduled(world, chance):
                    zombies += _start(world, run, schedule, reports=chance.random() < 0.7)
                clock.seconds += _STEP_SECONDS
                reviver.tick()
                responder.tick()
                if _at_rest(world, ledger):
                    return schedule
        finally:
            _wake(zombies, schedule)
    raise AssertionError(f"never at rest: {world.outside.read()['runs']}, {ledger.outbox.unanswered()}")


@dataclass
class _Clock:
    """Seconds that pass when the machine says so."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def _ask_for(world: World, start: Start) -> None:
    api = PrefectApi(world.outside)
    body = {"parameters": dict(start.parameters), "idempotency_key": start.key}
    api.ask(world.settings, "create_run", "POST", f"/deployments/{start.flow}:{start.flow}/create_flow_run", body)


def _deliver_events(world: World, chance: random.Random) -> None:
    """Each event starts `respond`; some are lost, some come twice."""
    with world.outside.edit() as state:
        for incident in state["events"]:
            for copy in range(chance.choice((0, 1, 1, 1, 2))):
                run = f"00000000-0000-0000-0000-{len(state['runs']):010d}{copy:02d}"
                found = {"flow": "respond", "parameters": {"incident": incident}, "state": "SCHEDULED", "starts": 0}
                state["runs"][run] = found
        state["events"] = []


def _scheduled(world: World, chance: random.Random) -> list[str]:
    runs = world.outside.read()["runs"]
    found = [run for run in sorted(runs) if runs[run]["state"] == "SCHEDULED"]
    chance.shuffle(found)
    return found


def _at_rest(world: World, ledger: Ledger) -> bool:
    state = world.outside.read()
    moving = any(run["state"] in ("SCHEDULED", "PENDING", "RUNNING", "CRASHED") for run in state["runs"].values())
    return not moving and not state["events"] and not ledger.outbox.unanswered()


def _wake(zombies: Sequence[int], schedule: Schedule) -> None:
    """Let processes go on that everybody has given up; they must end without having changed anything."""
    for index, _ in enumerate(schedule.faults):
        schedule.let_go(index)
    for zombie in zombies:
        os.waitpid(zombie, 0)


def _start(world: World, run: str, schedule: Schedule, *, reports: bool) -> list[int]:
    """Run a flow in a child. What it could not say itself, the worker reports, or not.

    Returns:
        The child, if a fault holds it: from outside it is dead, and it is not.
    """
    with world.outside.edit() as state:
        found = state["runs"][run]
        found["state"] = "RUNNING"
        found["starts"] += 1
    child = os.fork()
    if child == 0:
        _be_flow(world, run, found["flow"], found["parameters"], schedule.folder)
    status = _end_of(child, schedule)
    if status is None:
        return [child]
    ended = {0: "COMPLETED", 3: "FAILED", 4: "CRASHED"}.get(os.waitstatus_to_exitcode(status))
    if ended is None and reports:
        ended = "CRASHED"
    if ended is not None:
        with world.outside.edit() as state:
            state["runs"][run]["state"] = ended
    return []


def _end_of(child: int, schedule: Schedule) -> int | None:
    """How the child ended; None when a fault holds it instead."""
    holds = [number for number, fault in enumerate(schedule.faults) if fault.action == "hold"]
    waiting = [number for number in holds if not schedule.struck(number)]
    if not waiting:
        return os.waitpid(child, 0)[1]
    ended: list[int] = []

    def is_settled() -> bool:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            ended.append(status)
        return bool(ended) or any(schedule.struck(number) for number in waiting)

    until(is_settled, "the end of a flow, or its fault", _MOST_SECONDS, every=0.002)
    return ended[0] if ended else None


def _be_flow(world: World, run: str, flow: str, parameters: dict[str, Any], faults: Path) -> None:
    """In the child: the flow's function, as the engine calls it; ends the process."""
    import tasks.liveness
    from tasks.run import Interrupted

    code = 3
    try:
        os.environ |= world.settings.environment() | {FOLDER: str(faults), _RUN: run}
        # Held, it does not beat; and the reconciler is on another host, where it cannot see whether it lives.
        tasks.liveness.BEAT_SECONDS = 3600.0
        socket.gethostname = lambda: "elsewhere"
        called = _flow(flow)
        called.fn(**called.validate_parameters(parameters))
        code = 0
    except Interrupted:
        code = 4
    except BaseException:
        (world.folder / f"failed-{run}").write_text(traceback.format_exc())
    finally:
        sys.stdout.flush()
        os._exit(code)


def _flow(name: str) -> Any:
    return getattr(importlib.import_module(f"flows.{name}"), name)


@contextmanager
def _doubled(world: World) -> Iterator[_Clock]:
    """Put the doubles in the place of what is outside."""
    import prefect.runtime.deployment
    import prefect.runtime.flow_run
    import torch

    import ray_jobs.evaluate.judge
    import ray_jobs.stage.shards
    import tasks.artifacts
    import tasks.checks
    import tasks.prefect_api
    import tasks.registry
    import tasks.rollout
    import tasks.run
    import tasks.training

    for name in _LIBRARIES:
        importlib.import_module(name)
    # Asked once, here: a checkout that changes while schedules are played would make other packages.
    for digest in (
        provenance.commit,
        provenance.code_digest,
        provenance.evaluation_code_digest,
        provenance.lock_digest,
    ):
        digest()
    torch.set_num_threads(1)
    outside = world.outside
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.settings.environment().items():
            patch.setenv(name, value)
        for runtime in (prefect.runtime.flow_run, prefect.runtime.deployment):
            patch.setattr(runtime, "get_id", lambda: os.environ.get(_RUN))
        patch.setattr(tasks.prefect_api, "_ask", PrefectApi(outside).ask)
        patch.setattr(tasks.registry.Registry, "_client", MlflowClient(outside))
        patch.setattr(tasks.rollout, "deploy", Serve(outside).deploy)
        patch.setattr(tasks.rollout, "connect", lambda settings: None)
        patch.setattr(tasks.training, "train", _train)
        for module in (ray_jobs.stage.shards, ray_jobs.evaluate.judge):
            patch.setattr(module, "run_all", _run_all)
        patch.setattr(tasks.artifacts, "create_markdown_artifact", lambda **_: None)
        patch.setattr(tasks.checks, "measure_drift", _measure_drift)
        patch.setattr(tasks.checks, "read_joined", lambda folder, data, window: _answered(world.settings, window))
        yield _Clock()


def _run_all(
    settings: Settings, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], **_resources: float
) -> list[Any]:
    """Ray's tasks, one after another in this process."""
    from millrace.faults import fault_point

    with fault_point("ray.tasks"):
        return [function(*given) for given in arguments]


def _train(request: Any, pipeline: Any, report: Any) -> Any:
    """Ray Train with one worker: this process. Checkpoints, package and proof are the real ones."""
    import ray.train
    import ray.train.torch
    import torch

    from millrace.faults import fault_point
    from ray_jobs.train.problems import prepare
    from ray_jobs.train.run import find_result
    from ray_jobs.train.worker import train_worker

    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    with pytest.MonkeyPatch.context() as patch, fault_point("ray.train"):
        patch.setattr(ray.train, "get_context", lambda: context)
        patch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
        prepare(request)
        train_worker({"request": request})
    found = find_result(request)
    assert found is not None
    return found


def _measure_drift(rows: Any, reference: Any, spec: Any, report: Path) -> Any:
    from tasks.evidently_report import Drift

    return Drift({"size": (0.0, False)}, (0.0, False))


def _answered(settings: Settings, window: Any) -> pd.DataFrame:
    """What the champion would have answered in `window`, with its outcomes: stands for the traffic."""
    from millrace.pipeline import load_pipeline
    from millrace.storage import ObjectStore

    pipeline, ledger = load_pipeline(PIPELINE, settings.pipelines), Ledger(settings.ledger)
    first = ledger.entries(PIPELINE, "serving")[0]
    store = ObjectStore.of(settings)
    root = Path(settings.objects) / "packages" / PIPELINE
    (package,) = [
        found
        for path in sorted(root.iterdir())
        if (found := store.find(f"packages/{PIPELINE}/{path.name}")) and found.digest == first.detail["package"]
    ]
    rows = pipeline.source.rows(window.start, window.end, window.end)
    answers = load_predictor(package, pipeline).predict_rows(rows)
    asked = rows.drop(columns="answer")
    return asked.assign(version=first.subject, prediction=answers, label=rows["answer"])


def describe(faults: Sequence[Fault]) -> str:
    """The faults as text, for a person who replays them."""
    return "; ".join(" ".join(str(value) for value in asdict(fault).values()) for fault in faults)
