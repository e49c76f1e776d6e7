from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.environment import environment
from infra.local.layout import Layout
from infra.local.parts import mlflow_variables
from millrace.settings import Settings

pytestmark = pytest.mark.unit


def test_environment_says_where_everything_is(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, ray_port=7000, serve_url="http://127.0.0.1:8123")
    values = environment(settings)
    assert values["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert values["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert values["RAY_ADDRESS"] == "127.0.0.1:7000"
    assert values["MILLRACE_SERVE_URL"] == "http://127.0.0.1:8123"
    assert values["RAY_SERVE_ENABLE_HA_PROXY"] == values["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"


def test_environment_turns_telemetry_off(tmp_path: Path) -> None:
    values = environment(Settings(state_dir=tmp_path))
    assert values["DO_NOT_TRACK"] == "1"
    assert values["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert values["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert values["RAY_USAGE_STATS_ENABLED"] == "0"


def test_environment_names_the_token_and_never_holds_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    try:
        token = layout.token.read_text()
        values = environment(Settings(state_dir=tmp_path))
        assert values["RAY_AUTH_TOKEN_PATH"] == str(layout.token)
        assert token not in "".join(values.values())
        assert layout.token.stat().st_mode & 0o777 == 0o600
    finally:
        layout.remove_short()


def test_environment_leaves_another_cluster_its_own_authentication(tmp_path: Path) -> None:
    values = environment(Settings(state_dir=tmp_path, ray_address="ray-head:6379"))
    assert values["RAY_ADDRESS"] == "ray-head:6379"
    assert not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} & values.keys()


def test_environment_keeps_loopback_out_of_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "corp.example, 127.0.0.1")
    assert environment(Settings(state_dir=tmp_path))["NO_PROXY"] == "corp.example,127.0.0.1,localhost"


def test_importing_the_stack_imports_no_heavy_library() -> None:
    code = "import sys, infra.local.stack; print([m for m in ('ray', 'prefect', 'mlflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_names_that_mlflow_hands_to_its_workers_are_still_those(tmp_path: Path) -> None:
    # Read as text: importing mlflow.server takes seconds and builds an app.
    found = subprocess.run(
        [sys.executable, "-c", "import importlib.util as u; print(u.find_spec('mlflow').origin)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    server = Path(found.stdout.strip()).parent
    source = (server / "server" / "constants.py").read_text() + (server / "environment_variables.py").read_text()
    for name in mlflow_variables(Layout(tmp_path)):
        assert f'"{name}"' in source
