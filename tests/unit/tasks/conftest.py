"""A ledger, Prefect's API as a double, and a clock that stands still until it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks.prefect_api
from millrace.ledger import Ledger
from millrace.settings import Settings
from tests.chaos.outside import Outside, PrefectApi


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    made = Ledger(settings.ledger)
    yield made
    made.close()


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outside:
    """What Prefect holds, in the place of its server."""
    made = Outside(tmp_path)
    monkeypatch.setattr(tasks.prefect_api, "_ask", PrefectApi(made).ask)
    return made


@pytest.fixture
def start(outside: Outside) -> Iterator[object]:
    """Put a flow run into Prefect: `start(id, state)`."""

    def put(run: str, state: str, flow: str | None = "training") -> None:
        with outside.edit() as held:
            held["runs"][run] = {"flow": flow, "parameters": {}, "state": state, "starts": 1}

    return put  # type: ignore[return-value]
