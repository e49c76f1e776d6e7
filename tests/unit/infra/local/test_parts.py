from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from infra.local import parts
from infra.local.layout import AuxiliaryPorts, Layout
from millrace.settings import Settings

pytestmark = pytest.mark.unit


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    secret = {"prefect_auth": "me:hunter2-prefect", "mlflow_auth": "me:hunter2-mlflow", "serve_key": "mr_hunter2"}
    return Settings(state_dir=tmp_path, ledger_url="postgresql://me:hunter2@db/x", **secret)  # type: ignore[arg-type]


def test_no_secret_is_on_a_command_line(settings: Settings) -> None:
    layout = Layout(settings.state)
    built = [
        parts.prefect(settings, layout),
        parts.worker(settings, layout, None),
        parts.reconciler(settings, layout, None),
        parts.mlflow(settings, layout),
        parts.ray(settings, layout, AuxiliaryPorts.in_block(20_000)),
        parts.serve(settings, layout),
    ]
    assert not [part.name for part in built if "hunter2" in " ".join(part.command)]


def test_services_elsewhere_are_not_started_here(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, mlflow_url="https://mlflow.example", ray_address="ray-head:6379")
    layout = Layout(tmp_path)
    assert not parts.mlflow(settings, layout).local
    assert not parts.ray(settings, layout, None).local
    assert not parts.serve(settings, layout).local
    assert parts.prefect(settings, layout).local


HAPROXY = """frontend a
    bind :9101
listen s
  bind *:8404
frontend b
    bind 127.0.0.1:8000
frontend c
    bind 127.0.0.1:80
"""


@pytest.mark.parametrize(
    ("listen", "ingress"),
    [
        ("127.0.0.1", "127.0.0.1:8000"),
        ("10.1.2.3", "127.0.0.1:8000,10.1.2.3:8000"),
        ("0.0.0.0", "0.0.0.0:8000"),
        ("fd00::7", "127.0.0.1:8000,[fd00::7]:8000"),
    ],
)
def test_the_stand_in_for_haproxy_moves_its_listeners(listen: str, ingress: str, tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY)
    script = tmp_path / "haproxy"
    script.write_text(parts.haproxy_script("/bin/echo", Settings(listen=listen)))
    script.chmod(0o700)
    done = subprocess.run([script, "-db", "-f", config, "-sf", "1"], capture_output=True, text=True, check=True)
    assert done.stdout == f"-db -f {config} -sf 1\n"
    lines = [line.strip() for line in config.read_text().splitlines()]
    assert [line for line in lines if line.startswith("bind")] == [
        "bind 127.0.0.1:9101",
        "bind 127.0.0.1:8404",
        f"bind {ingress}",
        "bind 127.0.0.1:80",
    ]


def test_the_templates_that_the_stand_in_corrects_are_still_those() -> None:
    # Should Ray learn to bind elsewhere, or write it differently, the stand-in must follow.
    code = "import importlib.util as u; print(u.find_spec('ray').origin)"
    origin = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    template = (Path(origin).parent / "serve" / "_private" / "haproxy_templates.py").read_text()
    binds = [line.strip() for line in template.splitlines() if line.strip().startswith("bind ")]
    assert binds == [
        "bind :{{ config.metrics_port }}",
        "bind {{ config.frontend_host }}:{{ config.frontend_port }}",
        "bind {{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} proto h2",
        "bind *:{{ config.stats_port }}",
    ]
