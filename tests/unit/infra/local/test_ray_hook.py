"""What Ray's dashboard loads: all that the pinned release has, but for what calls home."""

from __future__ import annotations

import re
from pathlib import Path

import ray

from infra.local.ray_hook import DASHBOARD_MODULES, quiet


def test_all_modules_of_the_dashboard_are_named_but_the_one_that_calls_home() -> None:
    folder = Path(ray.__file__).parent / "dashboard" / "modules"
    bases = r"(?:SubprocessModule|(?:dashboard_utils\.)?DashboardHeadModule)\b"
    found = {
        name
        for path in folder.rglob("*.py")
        for name in re.findall(rf"^class (\w+)\([^)]*{bases}", path.read_text(), re.MULTILINE)
        if "/tests/" not in str(path)
    }
    assert found == {*DASHBOARD_MODULES, "UsageStatsHead"}


def test_only_the_dashboard_is_started_differently() -> None:
    started: list[list[str]] = []
    start = quiet(lambda command, kind, **more: started.append([*command, kind, *more]))
    start(["python", "dashboard.py"], "dashboard", fate_share=True)
    start(["raylet"], "raylet", fate_share=True)
    assert started[0][:2] == ["python", "dashboard.py"]
    assert "UsageStatsHead" not in started[0][2]
    assert "StateHead" in started[0][2]
    assert started[0][3:] == ["dashboard", "fate_share"]
    assert started[1] == ["raylet", "raylet", "fate_share"]


def test_the_process_is_called_so_in_ray() -> None:
    from ray._private import ray_constants, services

    assert ray_constants.PROCESS_TYPE_DASHBOARD == "dashboard"
    assert "--modules-to-load" in Path(services.__file__).read_text()
