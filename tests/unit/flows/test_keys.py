"""What `millrace keys list` tells of customers: how often they may ask, and how many times they have."""

from __future__ import annotations

import json
import time
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.keys import list_keys
from millrace.keys import KeyFile
from millrace.limits import Limit
from millrace.quotas import Usage, day_of, usage_folder
from millrace.settings import Settings
from tests.unit.ray_jobs.serve.world import World


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    noon = time.time() // 86_400 * 86_400 + 43_200
    monkeypatch.setattr("time.time", lambda: noon)
    return Settings(state_dir=tmp_path / "state", pipelines_dir=tmp_path / "pipelines")


def today() -> date:
    return day_of(time.time())


def test_what_was_asked_today_is_told_with_its_quota(settings: Settings, tmp_path: Path) -> None:
    assert list_keys(settings) == {"keys": [], "limits": {}, "usage": []}
    ring = KeyFile(settings.keys_path)
    ring.limit("acme", Limit.of(2, 4), 50)
    ring.limit("umbrella", None, 9)
    World(tmp_path, {"kind": "binary"})
    for name in ("tiny", "gone"):
        for customer in ("acme", "zoo"):
            Usage(usage_folder(settings, name)).take(customer, today(), 100)
    Usage(usage_folder(settings, "tiny")).take("zoo", date(2020, 1, 1), 100)
    found = list_keys(settings)
    assert found["limits"] == {"acme": {"rate": 2.0, "burst": 4}}
    assert [tuple(row.values()) for row in found["usage"]] == [
        ("acme", "gone", 1, 50),
        ("acme", "tiny", 1, 50),
        ("umbrella", None, 0, 9),
        ("zoo", "gone", 1, None),
        ("zoo", "tiny", 1, None),
    ]


def test_people_and_scripts_are_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_settings", lambda: settings)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(cli.app, ["keys", *arguments])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    assert "acme may ask as often as each pipeline's spec says, 5,000 times a day of each pipeline" in run(
        "limit", "acme", "--daily", "5000"
    )
    Usage(usage_folder(settings, "tiny")).take("acme", today(), 5000)
    assert "│ acme │ tiny │ 32 │ 5,000 │" in run("list")
    (row,) = json.loads(run("list", "--json"))["usage"]
    assert row == {"customer": "acme", "pipeline": "tiny", "used": 32, "quota": 5000}
    run("limit", "acme")
    assert json.loads(run("list", "--json"))["usage"] == [row | {"quota": None}]
