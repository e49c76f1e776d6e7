"""Rollbacks under load: how long until the last answer of the old version, and whether any answer was lost or wrong.

    python -m benchmarks.reliability.rollback NAME

It asks the running stack that the environment names, whose pipeline has served two versions at least. Each rollback is
the whole `millrace rollback` command in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.local.environment import environment
from millrace.ledger import Ledger
from millrace.pipeline import Pipeline, load_pipeline
from millrace.requests import RequestContract
from millrace.scaffold.write import create_pipeline
from millrace.settings import Settings, load_settings
from millrace.storage import ObjectStore
from ray_jobs.serve.versions import Target, load_version
from tasks.champion_pile import served_before
from tasks.registry import Registry
from tests.e2e.conftest import FIRST, LAST, drifting_table, set_values
from tests.live import run_millrace, running_stack

ROLLBACKS = 20
THREADS = 8

_NAME = "churn"
_VALUES = {"epochs": 8, "window_days": 10.0, "validation_days": 5.0, "lookback_days": 20.0, "replicas": 2}
_BODIES = 16
_ROWS = 4
_TOLERANCE = 1e-5
_BETWEEN = 100
_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One request, its times on this process's monotonic clock. `version` is None when it failed."""

    sent: float
    answered: float
    version: str | None
    is_right: bool


@dataclass(frozen=True, slots=True)
class Rollback:
    """One command: when it started and ended, and the version that was to stop answering."""

    started: float
    ended: float
    old: str


@dataclass
class Load:
    """Threads that each ask one request after the other over one connection, until `stop`."""

    url: str
    bodies: Sequence[bytes]
    #: For each version the answers of its package to each body.
    expected: Mapping[str, Sequence[Sequence[float]]]
    headers: Mapping[str, str] = field(repr=False)
    answers: list[Answer] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, threads: int) -> None:
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, count: int) -> None:
        """Until so many answers more are there."""
        wanted, deadline = len(self.answers) + count, time.monotonic() + _TIMEOUT_SECONDS
        while len(self.answers) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.url} does not give {count} answers in {_TIMEOUT_SECONDS:g} s")
            self._stopped.wait(0.01)

    def _ask_on(self, first: int) -> None:
        with httpx.Client(timeout=_TIMEOUT_SECONDS, headers=self.headers) as client:
            for turn in itertools.count(first):
                if self._stopped.is_set():
                    return
                number, sent = turn % len(self.bodies), time.monotonic()
                try:
                    answer = client.post(self.url, content=self.bodies[number])
                    found = answer.json() if answer.status_code == httpx.codes.OK else None
                except (httpx.HTTPError, ValueError):
                    found = None
                version = None if found is None else str(found["version"])
                is_right = found is not None and self._is_right(number, found)
                self.answers.append(Answer(sent, time.monotonic(), version, is_right))

    def _is_right(self, number: int, found: Mapping[str, Any]) -> bool:
        promised = self.expected.get(str(found["version"]))
        if promised is None:
            return False
        pairs = zip(_numbers(found["predictions"]), promised[number], strict=True)
        return all(abs(one - other) <= _TOLERANCE for one, other in pairs)


def measure(rollbacks: int, threads: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """As `measure_on`, on a stack of its own with a pipeline of two replicas that was trained twice."""
    with tempfile.TemporaryDirectory(prefix="millrace-rollback-") as folder:
        table = Path(folder) / "churn.csv"
        drifting_table(table)
        with running_stack(Path(folder)) as settings:
            made = create_pipeline(_NAME, str(table), time="asked_at", label="left", pipelines_dir=settings.pipelines)
            set_values(made.folder / "pipeline.yaml", _VALUES)
            for as_of in (FIRST, LAST):
                tell(f"training as of {as_of}")
                done = run_millrace(settings, "run", _NAME, "--as-of", as_of)
                if done.returncode != 0:
                    raise RuntimeError(done.stderr)
            tell(f"{rollbacks} rollbacks under {threads} threads of requests")
            return measure_on(settings, _NAME, rollbacks=rollbacks, threads=threads)


def measure_on(
    settings: Settings, name: str, *, rollbacks: int = ROLLBACKS, threads: int = THREADS
) -> dict[str, dict[str, Any]]:
    """Roll pipeline `name` back and forth under load; it serves in the end what it served before, for even counts.

    Raises:
        ValueError: it has not served two versions whose packages answer differently.
    """
    pipeline = load_pipeline(name, settings.pipelines)
    newer, older = _two_versions(settings, name)
    asked = bodies(pipeline)
    expected = {version: _answers(settings, pipeline, version, asked) for version in (newer, older)}
    if all(math.isclose(a, b) for a, b in zip(*(itertools.chain(*found) for found in expected.values()), strict=True)):
        raise ValueError(f"versions {older} and {newer} of '{name}' answer the same: no wrong answer could be seen")
    load = Load(f"{settings.serve_url}/v1/{name}/predict", asked, expected, settings.serve_headers)
    load.start(threads)
    try:
        load.wait_for(_BETWEEN)
        done = []
        for turn in range(rollbacks):
            back = turn % 2 == 0
            done.append(_roll_back(settings, name, () if back else ("--to", newer), newer if back else older))
            load.wait_for(_BETWEEN)
    finally:
        load.stop()
    return {"rollback": summary(load.answers, done)}


def summary(answers: Sequence[Answer], rollbacks: Sequence[Rollback]) -> dict[str, Any]:
    """The figures. Mis-versioned is an answer that its version's package does not give, and one of the old version
    that was asked for after the command had returned."""
    wrong = sum(answer.version is not None and not answer.is_right for answer in answers)
    late, seconds = 0, []
    ends = [*(rollback.started for rollback in rollbacks[1:]), math.inf]
    for rollback, until in zip(rollbacks, ends, strict=True):
        olds = [a for a in answers if a.version == rollback.old and rollback.started <= a.answered < until]
        late += sum(rollback.ended < answer.sent for answer in olds)
        seconds.append(max((answer.answered for answer in olds), default=rollback.started) - rollback.started)
    commands = [rollback.ended - rollback.started for rollback in rollbacks]
    return {
        "p99_seconds": round(_quantile(seconds, 0.99), 3),
        "p50_seconds": round(_quantile(seconds, 0.5), 3),
        "command_p99_seconds": round(_quantile(commands, 0.99), 3),
        "command_p50_seconds": round(_quantile(commands, 0.5), 3),
        "count": len(rollbacks),
        "requests": len(answers),
        "failed": sum(answer.version is None for answer in answers),
        "mis_versioned": wrong + late,
    }


def _roll_back(settings: Settings, name: str, options: Sequence[str], old: str) -> Rollback:
    command = [sys.executable, "-m", "flows.cli", "rollback", name, *options]
    started = time.monotonic()
    done = subprocess.run(command, env=os.environ | environment(settings), capture_output=True, text=True, check=False)
    ended = time.monotonic()
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
    return Rollback(started, ended, old)


def _two_versions(settings: Settings, name: str) -> tuple[str, str]:
    ledger = Ledger(settings.ledger)
    now, before = ledger.serving(name), served_before(ledger, name)
    if now is None or before is None:
        raise ValueError(f"pipeline '{name}' has not served two versions")
    return now.subject, before.subject


def bodies(pipeline: Pipeline) -> list[bytes]:
    """Requests of a few rows each, from the end of the pipeline's past."""
    start, end = pipeline.source.extent()
    spec = pipeline.spec.table
    rows = pipeline.source.rows(start, end, end).tail(_BODIES * _ROWS)[list(spec.features)]
    given = json.loads(rows.to_json(orient="records"))
    return [json.dumps({"rows": given[at : at + _ROWS]}).encode() for at in range(0, len(given), _ROWS)]


def _answers(settings: Settings, pipeline: Pipeline, number: str, asked: Sequence[bytes]) -> list[list[float]]:
    """What the package of the version answers, computed here and without the service."""
    version = Registry(settings).version(pipeline.name, number)
    target = Target(version.version, version.package_key, version.package_digest)
    loaded = load_version(target, ObjectStore.of(settings), pipeline)
    contract = RequestContract(loaded.predictor.spec)
    return [_numbers(loaded.told(loaded.predictor.predict(contract.parse(body).batch)).predictions) for body in asked]


def _numbers(predictions: Sequence[Mapping[str, Any]]) -> list[float]:
    """The numbers of the answers, in order, whatever the kind of label."""
    found: list[float] = []
    for prediction in predictions:
        for value in prediction.values():
            found += value.values() if isinstance(value, Mapping) else [value] if isinstance(value, float) else []
    return found


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]


def main() -> None:
    """Measure the stack that the environment names; print the figures."""
    sys.stdout.write(json.dumps(measure_on(load_settings(), sys.argv[1]), indent=2) + "\n")


if __name__ == "__main__":
    main()
