"""The same with the real parts: Prefect, its worker, MLflow, Ray, Ray Serve and the reconciler, killed one by one.

Each pipeline lives through three schedules: its first training, a check that brings a retraining, a rollback. What a
cluster's operator does, `supervise` does here: whatever has died is started again, nothing else.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from infra.local.layout import Layout
from infra.local.processes import members, read_record
from infra.local.status import stack_status
from millrace.errors import MillraceError
from millrace.faults import Fault, Schedule
from millrace.ledger import Ledger
from millrace.settings import Settings
from tasks.prefect_api import flow_state, submit
from tasks.run_kinds import ABANDONED
from tests.chaos.world import MODEL, SOURCE, SPEC, committed, differences
from tests.live import run_millrace
from tests.postgres import Postgres
from tests.waiting import until

_REST_SECONDS = 300.0
_QUIET_LOOKS = 3

#: Whom a schedule may kill while a flow is held at a point, and how its process is found.
VICTIMS = (
    "worker", "prefect", "mlflow", "reconciler", "ray head", "ray worker", "serve controller", "serve replica",
    "database",
)  # fmt: skip

#: What happens in each part: the deployment, its parameters, and the requests that come before it.
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("training/training", {"as_of": "2024-02-01T00:00:00+00:00"}),
    "check": ("monitoring/monitoring", {"as_of": "2024-03-01T00:00:00+00:00"}),
    "rollback": ("rollback/rollback", {}),
}
_TRAFFIC = {"start": "2024-02-01T00:00:00+00:00", "end": "2024-03-01T00:00:00+00:00"}

#: Points that flows of a part meet; other processes meet them too.
POINTS = {
    "train": (
        "ledger.append", "heartbeat.begin", "slot.take", "storage.write", "storage.commit", "storage.find",
        "storage.read", "ray.connect", "ray.tasks", "ray.train", "mlflow.create_run", "mlflow.log_batch",
        "mlflow.set_terminated", "mlflow.log_artifacts", "mlflow.create_model_version", "prefect.artifact",
        "mlflow.set_registered_model_alias", "serve.submit", "ledger.serve", "slot.release", "heartbeat.end",
    ),
    "check": (
        "incident.open_when", "prefect.send_event", "incident.answer", "prefect.create_run", "report.write",
        "mlflow.log_artifact", "storage.commit", "ray.train", "mlflow.create_model_version", "serve.broadcast",
        "serve.submit", "ledger.serve", "mlflow.set_registered_model_alias", "incident.close", "ledger.append",
    ),
    "rollback": (
        "slot.take", "mlflow.search_model_versions", "ray.connect", "serve.broadcast", "serve.submit", "ledger.append",
        "ledger.serve", "mlflow.set_registered_model_alias", "slot.release", "heartbeat.begin", "heartbeat.end",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RealCase:
    """One schedule with real processes: the part, the fault, and who is killed while it holds."""

    part: str
    fault: Fault | None
    victim: str = ""

    def __str__(self) -> str:
        fault = self.fault
        struck = "nothing" if fault is None else f"{fault.action} {fault.moment} {fault.point}"
        return f"{self.part}: {struck}{f', {self.victim} killed' if self.victim else ''}"


def cases(count: int, seed: int, victims: Sequence[str] = VICTIMS) -> Iterator[RealCase]:
    """Schedules in the order of the parts, drawn by chance: a quarter kills, a quarter fails, half have a victim."""
    chance = random.Random(seed)
    parts = list(PARTS)
    for number in range(count):
        part = parts[number % len(parts)]
        fault = Fault(chance.choice(POINTS[part]), chance.choice(("before", "after")), "kill")
        kind = chance.choice(("kill", "fail", "victim", "victim"))
        if kind == "victim":
            victim = victims[number // 2 % len(victims)]
            yield RealCase(part, replace(fault, action="hold"), victim)
        else:
            yield RealCase(part, replace(fault, action=kind))  # type: ignore[arg-type]


class RealWorld:
    """A running stack whose processes look for their faults in `faults`; `database` has its ledger, or a file has."""

    def __init__(self, settings: Settings, faults: Path, database: Postgres | None = None) -> None:
        self.settings = settings
        self.faults = faults
        self.database = database
        self.layout = Layout(settings.state)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger)

    def arm(self, faults: Sequence[Fault]) -> Schedule:
        """Lay out a schedule; what an earlier one left is gone."""
        self.faults.mkdir(parents=True, exist_ok=True)
        Schedule(self.faults, ()).write()
        for path in self.faults.iterdir():
            if path.suffix != ".json":
                path.unlink()
        schedule = Schedule(self.faults, tuple(faults))
        schedule.write()
        return schedule

    def add_pipeline(self, name: str) -> None:
        folder = self.settings.pipelines / name
        folder.mkdir(parents=True)
        (folder / "pipeline.yaml").write_text(yaml.safe_dump({**SPEC, "name": name}, sort_keys=False))
        (folder / "source.py").write_text(SOURCE)
        (folder / "model.py").write_text(MODEL)

    def play(self, name: str, case: RealCase) -> list[str]:
        """Let a part happen under its fault, until nothing is left to do; what it did not come to, in words."""
        try:
            if case.part == "check":
                self.arm(())
                self._start("replay/replay", {"pipeline": name, **_TRAFFIC}, f"{name}-traffic")
                self._await_rest(name)
            schedule = self.arm(() if case.fault is None else (case.fault,))
            deployment, parameters = PARTS[case.part]
            with self._killing(case, schedule):
                self._start(deployment, {"pipeline": name, **parameters}, f"{name}-{case.part}")
                self._await_rest(name)
        except TimeoutError as error:
            return [str(error)]
        return []

    def _start(self, deployment: str, parameters: dict[str, Any], key: str) -> None:
        def is_started() -> bool:
            try:
                submit(self.settings, deployment, parameters, idempotency_key=key)
            except MillraceError as error:
                why.append(str(error))
                return False
            return True

        why: list[str] = []
        try:
            until(is_started, f"the run of {deployment}", _REST_SECONDS, every=0.5)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {why[-1]}") from None

    @contextmanager
    def _killing(self, case: RealCase, schedule: Schedule) -> Iterator[None]:
        """Kill the victim once the fault holds a process, and let that go on when the victim is back."""
        ended = threading.Event()

        def strike() -> None:
            while not schedule.struck(0):
                if ended.wait(0.05):
                    return
            self.kill(case.victim)
            ended.wait(1.0)
            schedule.let_go(0)

        thread = threading.Thread(target=strike, daemon=True)
        if case.victim:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if case.victim:
                thread.join(10)
                schedule.let_go(0)

    def kill(self, victim: str) -> None:
        """SIGKILL to a part of the stack."""
        marks = {
            "ray head": "gcs_server",
            "ray worker": "RayTrainWorker",
            "serve controller": "ServeController",
            "serve replica": "ServeReplica",
        }
        wanted: list[psutil.Process] = []
        if victim == "database":
            assert self.database is not None, "the ledger is a file: it has no process"
            self.database.kill()
        elif victim in marks:
            found = members(self.settings.state, "ray", read_record(self.layout.run, "ray"))
            wanted = [process for process in found if _is(process, marks[victim])]
        else:
            record = read_record(self.layout.run, victim)
            wanted = [psutil.Process(record.pid)] if record is not None and record.alive else []
        for process in wanted:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _await_rest(self, name: str) -> None:
        looks: list[str] = []

        def is_quiet() -> bool:
            looks.append(self._unrest(name))
            return len(looks) >= _QUIET_LOOKS and not any(looks[-_QUIET_LOOKS:])

        try:
            until(is_quiet, "rest", _REST_SECONDS, every=0.4)
        except TimeoutError:
            raise TimeoutError(f"never at rest: {next((why for why in reversed(looks) if why), '')}") from None

    def _unrest(self, name: str) -> str:
        """Why the pipeline is not at rest; empty when it is."""
        try:
            body = {"limit": 200, "flow_runs": {"state": {"type": {"not_any_": ["COMPLETED", "FAILED", "CANCELLED"]}}}}
            runs = httpx.post(f"{self.settings.prefect_api_url}/flow_runs/filter", json=body, timeout=10).json()
            moving = [run["state_type"] for run in runs if _of(run, name) and not self._given_up(run["id"])]
            if moving:
                return f"runs are {moving}"
            if self.ledger.outbox.unanswered(name):
                return "an incident has no answer"
            if any(beat.pipeline == name for beat in self.ledger.heartbeats.all()):
                return "a heartbeat is left"
            serving = self.ledger.serving(name)
            answer = httpx.get(f"{self.settings.serve_url}/v1/{name}/", timeout=10)
            if serving is not None and (not answer.is_success or answer.json()["version"] != serving.subject):
                return f"endpoint answers {answer.status_code}, not version {serving.subject}"
        except (httpx.HTTPError, ValueError, MillraceError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _given_up(self, run: str) -> bool:
        return bool(self.ledger.entries(None, ABANDONED, subject=run))

    def outcome(self, name: str) -> dict[str, Any]:
        """What must be the same whatever happened, the pipeline's own name aside."""
        ledger = self.ledger
        ledger.verify()
        serving = ledger.serving(name)
        answer = httpx.get(f"{self.settings.serve_url}/v1/{name}/", timeout=10).json()
        aliases = {
            alias: httpx.get(
                f"{self.settings.mlflow_url}/api/2.0/mlflow/registered-models/alias",
                params={"name": name, "alias": alias},
                timeout=10,
            ).json()["model_version"]["version"]
            for alias in ("champion", "challenger")
        }
        trainings = [entry.subject for entry in ledger.entries(name, "trained")]
        return {
            "aliases": aliases,
            "served": answer["version"],
            "digest_is_promoted": serving is not None and answer["package_digest"] == serving.detail["package"],
            "artifacts": self._artifacts(name),
            "ledger": _decisions(ledger, name),
            "trainings": len(trainings),
            "training_states": sorted(flow_state(self.settings, run).state for run in trainings),
            "held_slots": [slot for slot in ("training", "serving") if ledger.slots.holder(name, slot)],
        }

    def _artifacts(self, name: str) -> list[str]:
        """Kind and file digests of what is committed, files with the pipeline's name in them left out."""
        return sorted(
            f"{kind} {file} {entry.sha256}"
            for kind in ("staged", "checkpoints", "packages", "evaluations")
            for artifact in committed(self.settings, f"{kind}/{name}")
            for file, entry in artifact.entries.items()
            if file not in ("spec.json", "model_card.md", "evaluation.json")
        )


def _is(process: psutil.Process, mark: str) -> bool:
    try:
        return mark in " ".join(process.cmdline()) or mark in process.name()
    except psutil.Error:
        return False


def _of(run: dict[str, Any], name: str) -> bool:
    parameters = run.get("parameters") or {}
    return parameters.get("pipeline") == name or "incident" in parameters


_KEPT = {
    "promoted": ("metric", "observed", "champion_before", "reasons"),
    "refused": ("champion", "reasons"),
    "rolled_back": ("from", "to"),
    "registered": (),
    "serving": (),
    "trained": ("outcome", "version", "metrics", "trained"),
    "incident_opened": ("version", "kind", "window"),
    "incident_closed": ("outcome",),
    "incident_answered": (),
    "window_checked": ("version", "bad"),
}


def _decisions(ledger: Ledger, name: str) -> list[str]:
    """What was decided, without what names a run, a digest or a time."""
    kept = []
    for entry in ledger.entries(name, *_KEPT):
        subject = entry.subject if entry.kind in ("promoted", "refused", "registered", "serving") else ""
        detail = {key: entry.detail.get(key) for key in _KEPT[entry.kind]}
        kept.append(json.dumps([entry.kind, subject, detail], sort_keys=True))
    return sorted(kept)


@contextmanager
def supervised(world: RealWorld) -> Iterator[None]:
    """Start again whatever has died, as an operator's cluster does, until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            if world.database is not None and not world.database.running:
                world.database.start()
            if not all(part.running for part in stack_status(world.settings, world.layout).parts):
                run_millrace(world.settings, "up")

    thread = threading.Thread(target=watch, name="supervisor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(120)


def play_all(
    world: RealWorld,
    chosen: Sequence[RealCase],
    *,
    prefix: str,
    first: int = 0,
    tell: Callable[[str], None] = print,
    keep: Callable[[int, list[str]], None] = lambda number, problems: None,
) -> list[str]:
    """Play schedules, three to a pipeline, against what the same parts come to when nothing strikes; what differs.

    Begins with number `first`, which begins a pipeline; `keep` gets what each came to at once.
    """
    expected = {}
    world.add_pipeline(f"{prefix}_calm")
    for part in PARTS:
        problems = world.play(f"{prefix}_calm", RealCase(part, None))
        assert not problems, problems
        expected[part] = world.outcome(f"{prefix}_calm")
    found, name = [], ""
    for number, case in enumerate(chosen[first:], first):
        if case.part == "train" or not name:
            name = f"{prefix}_{number:03d}"
            world.add_pipeline(name)
        began = time.monotonic()
        problems = world.play(name, case) or differences(expected[case.part], world.outcome(name))
        tell(f"{number:3d} {case} ({time.monotonic() - began:.1f} s) {problems or 'same world'}")
        problems = [f"{number} {case}: {problem}" for problem in problems]
        keep(number, problems)
        found += problems
        if problems:
            name = ""
    return found
