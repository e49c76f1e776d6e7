"""Flow runs that start warm: the stand-in ends as its child ends, and copes without a server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local.warm import SOCKET

_STAND_IN = [sys.executable, "-m", "infra.local.warm"]
_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, eventually: Callable[..., Any]) -> Iterator[Path]:
    """The socket of a server that has imported its libraries."""
    folder = tmp_path_factory.mktemp("w")
    path = folder / "warm"
    process = subprocess.Popen([*_STAND_IN, str(path)], cwd=_ROOT, env=_environment(folder))
    try:
        eventually(path.exists, "the server's socket")
        yield path
    finally:
        process.kill()
        process.wait()


def _environment(folder: Path, **extra: str) -> dict[str, str]:
    return os.environ | {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"} | extra


def test_a_run_ends_in_a_warm_child_as_it_would_in_its_own_process(server: Path, tmp_path: Path) -> None:
    """An engine that is given no flow run says so and ends with 1."""
    cold = _run(tmp_path)
    warm = _run(tmp_path, **{SOCKET: str(server)})
    assert (cold.returncode, warm.returncode) == (1, 1)
    assert "Invalid flow run id" in cold.stderr + cold.stdout
    assert "Invalid flow run id" in warm.stderr + warm.stdout


def test_only_this_user_may_ask(server: Path) -> None:
    assert server.stat().st_mode & 0o077 == 0


def test_a_child_dies_with_its_stand_in(server: Path, tmp_path: Path, eventually: Callable[..., Any]) -> None:
    """A flow run of a server that does not answer keeps asking; its stand-in is killed meanwhile."""
    run = {"PREFECT__FLOW_RUN_ID": "00000000-0000-0000-0000-000000000001", "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    owner = next(process for process in psutil.process_iter() if _is_server(process, server))
    stand_in = subprocess.Popen(_STAND_IN, cwd=_ROOT, env=_environment(tmp_path, **run, **{SOCKET: str(server)}))
    (child,) = eventually(owner.children, "the warm child")
    stand_in.kill()
    stand_in.wait()
    eventually(lambda: not child.is_running(), "the end of the child")
    assert owner.is_running()


def _is_server(process: psutil.Process, path: Path) -> bool:
    try:
        return process.cmdline()[-1:] == [str(path)]
    except psutil.Error:
        return False


def _run(folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _STAND_IN,
        cwd=_ROOT,
        env=_environment(folder, **extra),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
