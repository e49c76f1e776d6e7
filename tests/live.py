"""The suite's stack: the real parts, started once, on free ports and in a folder of its own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from infra.local.environment import environment
from infra.local.ports import free_ports
from millrace.settings import Settings
from tests.waiting import until

if TYPE_CHECKING:
    from benchmarks.reliability.canaries import Planting

_ROOT = Path(__file__).resolve().parents[1]
_COMMAND_SECONDS = 280
_CANARIES = 200

Millrace = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def live_pipelines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the suite's pipelines."""
    folder = tmp_path_factory.mktemp("live") / "pipelines"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def planting(live_pipelines: Path) -> Planting:
    """Secrets that nothing may tell. Some are in the environment of the suite's stack from its start."""
    from benchmarks.reliability.canaries import Planting
    from benchmarks.reliability.nest import Nest

    return Planting(Nest(_CANARIES, secrets.randbits(32)), live_pipelines.parent / "orders.json")


@pytest.fixture(scope="session")
def live_settings(live_pipelines: Path, planting: Planting) -> Iterator[Settings]:
    """Settings of a running stack, with its deployments registered; the process's environment is the stack's."""
    with running_stack(live_pipelines.parent, **planting.environment()) as settings:
        yield settings


@contextmanager
def running_stack(folder: Path, ledger_url: str | None = None, **extra: str) -> Iterator[Settings]:
    """A stack on free ports, its state and pipelines below `folder`; `extra` goes into the environment of its parts.

    Its ledger is a file below `folder` unless `ledger_url` names a database.
    """
    prefect, mlflow, serve, ray = free_ports(4)
    settings = Settings(
        state_dir=folder / "state",
        pipelines_dir=folder / "pipelines",
        prefect_url=f"http://127.0.0.1:{prefect}",
        mlflow_url=f"http://127.0.0.1:{mlflow}",
        serve_url=f"http://127.0.0.1:{serve}",
        ray_port=ray,
        ledger_url=SecretStr(ledger_url) if ledger_url else None,
    )
    settings.pipelines.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    os.environ.update({**environment(settings), **extra})
    try:
        up = run_millrace(settings, "up")
        assert up.returncode == 0, up.stderr
        yield settings
    finally:
        down = run_millrace(settings, "down")
        os.environ.clear()
        os.environ.update(before)
    assert down.returncode == 0, down.stderr


@pytest.fixture(scope="session")
def millrace(live_settings: Settings) -> Millrace:
    """Run the `millrace` command against the suite's stack."""

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return run_millrace(live_settings, *arguments, extra=extra)

    return run


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Wait until a condition holds; fail, saying for what, when it does not."""
    return until


def run_millrace(
    settings: Settings, *arguments: str, extra: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person starts it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=_ROOT,
        env=kept | settings.environment() | dict(extra),
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
