"""A peer as running processes: started, awaited until its first answer, stopped with all that it started."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.serving.fixture import Fixture
from benchmarks.serving.peers.environment import ROOT, PeerError, last_lines
from benchmarks.serving.peers.registry import Peer, Place
from benchmarks.serving.peers.servers.served_model import FOLDER_VARIABLE
from benchmarks.serving.target import Target
from infra.local.ports import free_ports
from tests.waiting import until

_PREPARE_SECONDS = 120
_READY_SECONDS = 120.0
_STOP_SECONDS = 10.0
#: Marks a peer's processes, also those that left its group and its parent.
_MARK = "MILLRACE_BENCH_PEER"


@contextmanager
def serving(peer: Peer, fixture: Fixture) -> Iterator[Target]:
    """`peer`, which has answered once; at the end none of its processes is left.

    Raises:
        PeerError: it cannot be installed, or does not answer.
    """
    # A short path: Ray's sockets lie below, and a socket's path has 107 characters at most.
    scratch, mark = Path(tempfile.mkdtemp(prefix="mb-", dir="/tmp")), secrets.token_hex(8)
    try:
        place = Place(peer.python(peer.name), free_ports(1)[0], scratch)
        env = _environment(peer, place, fixture, mark)
        if peer.prepare is not None:
            _prepare(peer.prepare(place), env, scratch)
        target = Target("127.0.0.1", place.port, peer.path, peer.dialect, fixture)
        log = scratch / "output.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                peer.command(place), cwd=scratch, env=env, stdout=output, stderr=output, start_new_session=True
            )
        try:
            _await(peer, process, target, log)
            yield target
        finally:
            _stop(process, mark)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _environment(peer: Peer, place: Place, fixture: Fixture, mark: str) -> dict[str, str]:
    # Nothing of this process's own settings: neither its packages nor how it finds its Ray.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MILLRACE_", "RAY_", "PYTHON", "MLFLOW_", "PREFECT_"))
    }
    return {
        **kept,
        "PATH": f"{place.python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1,localhost",
        "DO_NOT_TRACK": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        FOLDER_VARIABLE: str(fixture.folder),
        _MARK: mark,
        **peer.environment(place),
    }


def _prepare(command: Sequence[str], env: dict[str, str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=_PREPARE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{' '.join(command[1:3])} took longer than {_PREPARE_SECONDS} s") from error
    if done.returncode != 0:
        raise PeerError(f"{' '.join(command[1:3])} failed: {last_lines(done.stderr)}")


def _await(peer: Peer, process: subprocess.Popen[bytes], target: Target, log: Path) -> None:
    def answers() -> bool:
        if process.poll() is not None:
            raise PeerError(f"{peer.name} ended with status {process.returncode}: {_end(log)}")
        return target.answers()

    try:
        until(answers, f"an answer of {peer.name}", _READY_SECONDS)
    except TimeoutError as error:
        raise PeerError(f"{error}: {_end(log)}") from error


def _end(log: Path) -> str:
    return last_lines(log.read_text(errors="replace"))


def _stop(process: subprocess.Popen[bytes], mark: str) -> None:
    """End the process by its own means, then whatever still bears the mark."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    while left := [found for found in psutil.process_iter() if _bears(found, mark)]:
        for found in left:
            with suppress(psutil.Error):
                found.kill()
        psutil.wait_procs(left, timeout=_STOP_SECONDS)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0)


def _bears(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == mark
    except psutil.Error:
        return False
