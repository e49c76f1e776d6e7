"""Millrace with everything on, serving the fixture's model: a stack of its own, the reference pipeline's contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import yaml

from benchmarks.serving.dialects import ROWS
from benchmarks.serving.fixture import PIPELINE, Fixture, reference_spec
from benchmarks.serving.peers.environment import ROOT
from benchmarks.serving.target import Target
from millrace.settings import Settings
from tests.live import running_stack
from tests.waiting import until

NAME = "flight_delays"
_READY_SECONDS = 60.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A serving process, as Serve's controller knows it."""

    id: str
    #: None while it starts.
    pid: int | None
    state: str


@dataclass
class Driver:
    """A process that is connected to the stack's Ray and does what a flow would: publish packages, deploy them."""

    process: subprocess.Popen[str]
    errors: IO[str]

    def publish(self, version: int) -> None:
        """Make the package of a version of the fixture's weights."""
        self._do("publish", version=version)

    def deploy(self, version: int, code: str | None = None) -> float:
        """Let the version serve; another `code` gives it new processes. Returns the seconds that it took."""
        return float(self._do("deploy", version=version, code=code)["seconds"])

    def replicas(self) -> list[ReplicaState]:
        return [ReplicaState(**found) for found in self._do("replicas")["replicas"]]

    def _do(self, what: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"the driver ended with status {status} at {what!r}:\n{self.errors.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{what} failed: {answer['error']}")
        return answer


@dataclass(frozen=True)
class Server:
    """The running stack, its driver, and whom to ask."""

    settings: Settings
    driver: Driver
    target: Target


@contextmanager
def serving_millrace(fixture: Fixture, *, replicas: int = 1, versions: int = 1, **serving: Any) -> Iterator[Server]:
    """Version 1 answers, on so many replicas; the packages of all `versions` are there.

    `serving` are further values of the spec's section of that name.
    """
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder, running_stack(Path(folder)) as settings:
        write_pipeline(settings.pipelines / NAME, {"replicas": replicas, **serving})
        with _driver(fixture) as driver:
            for version in range(1, versions + 1):
                driver.publish(version)
            driver.deploy(1)
            where = urlsplit(settings.serve_url)
            path, headers = f"/v1/{NAME}/predict", settings.serve_headers
            target = Target(where.hostname or "", where.port or 80, path, ROWS, fixture, headers)
            until(target.answers, "an answer of Millrace", _READY_SECONDS)
            yield Server(settings, driver, target)


def write_pipeline(folder: Path, serving: dict[str, Any]) -> None:
    """The reference pipeline's spec and model, without its data."""
    folder.mkdir(parents=True)
    document = reference_spec()
    document["serving"] |= serving
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    (folder / "model.py").write_text((PIPELINE / "model.py").read_text())


@contextmanager
def _driver(fixture: Fixture) -> Iterator[Driver]:
    # The environment is the stack's while that runs. What Ray says goes to a file: it would bury the figures.
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.driver", NAME, str(fixture.folder)],
            cwd=ROOT,
            env=os.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            yield Driver(process, errors)
        finally:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
