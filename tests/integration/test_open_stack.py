"""A stack that another machine can reach: it asks everybody who they are, and still does its work.

The other machine is a network namespace, and the stack listens at this end of the cable to it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from pydantic import SecretStr

from benchmarks.reliability.listeners import listeners
from benchmarks.reliability.namespace import Neighbour, neighbour, why_not
from infra.local.layout import Layout
from infra.local.ports import free_ports
from infra.local.processes import members, read_record
from infra.local.status import NAMES
from millrace.keys import KeyFile
from millrace.scaffold.write import create_pipeline
from millrace.settings import Settings
from tests.e2e.conftest import set_values
from tests.live import run_millrace

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]

NAME = "open"
ROW = {"x": 0.5, "y": -0.5}

ASK = """
import json, sys, httpx
found = []
with httpx.Client(timeout=20, trust_env=False) as client:
    for method, url, body, headers in json.load(open(sys.argv[1])):
        answer = client.request(method, url, json=body, headers=headers)
        found.append([answer.status_code, answer.headers.get("www-authenticate")])
print(json.dumps(found))
"""

Request = tuple[str, str, Any, dict[str, str]]


@pytest.fixture(scope="module")
def box() -> Iterator[Neighbour]:
    if (reason := why_not()) is not None:
        pytest.skip(f"no client in a network namespace of its own: {reason}")
    with neighbour() as found:
        yield found


@pytest.fixture(scope="module")
def settings(box: Neighbour, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    root = tmp_path_factory.mktemp("open")
    prefect, mlflow, serve, ray = free_ports(4)
    keys = KeyFile(root / "keys.json")
    made = Settings(
        state_dir=root / "state",
        pipelines_dir=root / "pipelines",
        prefect_url=f"http://127.0.0.1:{prefect}",
        mlflow_url=f"http://127.0.0.1:{mlflow}",
        serve_url=f"http://127.0.0.1:{serve}",
        ray_port=ray,
        listen=box.address,
        prefect_auth=SecretStr(f"me:{secrets.token_hex(16)}"),
        mlflow_auth=SecretStr(f"me:{secrets.token_hex(16)}"),
        keys_file=keys.path,
        serve_key=SecretStr(keys.create("ourselves")[1]),
        work_pool="open",
    )
    _write_pipeline(root)
    try:
        up = run_millrace(made, "up")
        assert up.returncode == 0, up.stderr
        yield made
    finally:
        down = run_millrace(made, "down")
    assert down.returncode == 0, down.stderr


@pytest.fixture(scope="module")
def trained(settings: Settings) -> dict[str, Any]:
    """What `millrace run` answers: a flow run with its training, its registration and its rollout."""
    done = run_millrace(settings, "run", NAME, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def _write_pipeline(root: Path) -> None:
    generator = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", "2024-02-10", periods=2001, inclusive="left")
    x, y = generator.normal(size=(2, len(times)))
    left = np.where(generator.random(len(times)) < 1 / (1 + np.exp(-3 * x)), "yes", "no")
    table = root / "open.csv"
    pd.DataFrame({"asked_at": times, "x": x, "y": y, "left": left}).to_csv(table, index=False)
    (root / "pipelines").mkdir()
    made = create_pipeline(NAME, str(table), time="asked_at", label="left", pipelines_dir=root / "pipelines")
    set_values(
        made.folder / "pipeline.yaml",
        {"epochs": 2, "window_days": 10.0, "validation_days": 5.0, "lookback_days": 20.0},
    )


def ask(box: Neighbour, requests: Sequence[Request], folder: Path) -> list[tuple[int, str | None]]:
    """Status and www-authenticate of each request, asked from the other machine."""
    path = folder / "requests.json"
    path.write_text(json.dumps(requests))
    return [(status, scheme) for status, scheme in json.loads(box.python("-c", ASK, str(path), seconds=240))]


def outside(settings: Settings, url: str) -> str:
    """The address of one of our services, as the other machine knows it."""
    return f"http://{settings.listen}:{urlsplit(url).port}"


def test_only_the_three_doors_are_open(settings: Settings, box: Neighbour, trained: dict[str, Any]) -> None:
    doors = {urlsplit(url).port for url in (settings.prefect_url, settings.mlflow_url, settings.serve_url)}
    found = listeners(settings)
    assert {listener.port for listener in found if not listener.is_loopback} == doors
    ports = sorted({listener.port for listener in found if listener.protocol == "tcp"})
    asked = ["-m", "benchmarks.reliability.probe", box.address, *map(str, ports)]
    probed = {entry["port"]: entry for entry in json.loads(box.python(*asked, seconds=240))}
    assert {port for port, entry in probed.items() if entry["reached"]} == doors
    # Prefect's page, which is public, asks for a login; Serve's list of routes is its health check.
    allowed = {"/: 200", "/-/routes: 200", "/stats: 200", "/logs: 200", "/metrics: 200", "/nodes?view=summary: 200"}
    assert {what for entry in probed.values() for what in entry["served"]} <= allowed


def test_prefect_demands_credentials_on_every_route_except_health(
    settings: Settings, box: Neighbour, tmp_path: Path
) -> None:
    base = outside(settings, settings.prefect_url)
    schema = httpx.get(f"{settings.prefect_url}/openapi.json", headers=settings.prefect_headers, timeout=30).json()
    routes = [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]
    assert len(routes) > 150
    requests: list[Request] = [
        (method, f"{base}/api{path.replace('{', '').replace('}', '')}", None, headers)
        for method, path in routes
        for headers in ({}, {"authorization": "Basic bWU6d3Jvbmc="})
    ]
    opened = {
        url.removeprefix(base)
        for (_, url, *_), (status, _) in zip(requests, ask(box, requests, tmp_path), strict=True)
        if status != 401
    }
    assert opened == {"/api/health", "/api/ready"}


def test_mlflow_demands_credentials_on_every_route_except_health(
    settings: Settings, box: Neighbour, tmp_path: Path
) -> None:
    base = outside(settings, settings.mlflow_url)
    paths = (
        "/", "/version", "/static-files/index.html", "/graphql", "/v1/traces", "/gateway/x", "/metrics", "/signup",
        "/api/2.0/mlflow/experiments/search?max_results=1", "/ajax-api/2.0/mlflow/experiments/search?max_results=1",
        "/api/2.0/mlflow-artifacts/artifacts", "/get-artifact?path=x&run_uuid=y", "/api/3.0/mlflow/traces/search",
        "/ajax-api/3.0/jobs/x", "/openapi.json", "/docs", "/HEALTH", "/health/x", "//health", "/%68ealth/..",
    )  # fmt: skip
    wrong = {"authorization": "Basic YWRtaW46cGFzc3dvcmQxMjM0"}
    requests: list[Request] = [
        (m, base + path, None, h) for path in paths for m in ("GET", "POST") for h in ({}, wrong)
    ]
    assert set(ask(box, requests, tmp_path)) == {(401, 'Basic realm="millrace"')}
    good = dict(settings.mlflow_headers)
    known: list[Request] = [("GET", base + "/health", None, {}), ("GET", base + paths[8], None, good)]
    assert [status for status, _ in ask(box, known, tmp_path)] == [200, 200]


def test_predictions_demand_a_key(
    settings: Settings, box: Neighbour, trained: dict[str, Any], tmp_path: Path, eventually: Any
) -> None:
    base = f"{outside(settings, settings.serve_url)}/v1/{NAME}"
    body, outcome = {"rows": [ROW]}, {"outcomes": [{"request_id": "door-1", "label": "yes"}]}
    keys = KeyFile(settings.keys_path)
    made, key = keys.create("acme")
    bearer = {"authorization": f"Bearer {key}", "x-request-id": "door-1"}
    requests: list[Request] = [
        ("POST", f"{base}/predict", body, {}),
        ("POST", f"{base}/predict", body, {"authorization": f"Bearer {made.digest}"}),
        ("POST", f"{base}/predict", body, {"authorization": settings.prefect_headers["authorization"]}),
        ("POST", f"{base}/outcomes", outcome, {}),
        ("POST", f"{base}/predict", body, bearer),
        ("POST", f"{base}/outcomes", outcome, bearer),
        ("GET", f"{base}/ready", None, {}),
    ]
    answers = ask(box, requests, tmp_path)
    assert [status for status, _ in answers] == [401, 401, 401, 401, 200, 202, 200]
    assert answers[0][1] == 'Bearer realm="millrace"'
    keys.revoke(made.id)
    # The file of the keys is looked at five times a second.
    eventually(lambda: [status for status, _ in ask(box, requests[4:6], tmp_path)] == [401, 401], "a key refused")


def test_a_flow_run_trains_registers_and_serves(settings: Settings, trained: dict[str, Any]) -> None:
    assert trained["trained"]
    assert trained["outcome"] == "promoted"
    endpoint = f"{settings.serve_url}/v1/{NAME}"
    answer = httpx.post(f"{endpoint}/predict", json={"rows": [ROW]}, headers=settings.serve_headers, timeout=30)
    assert answer.status_code == 200
    # Each epoch reached MLflow while the training ran, from Ray Train's controller.
    logged = "".join(path.read_text(errors="replace") for path in Layout(settings.state).ray_temp.rglob("*.log"))
    assert "epoch metrics not logged" not in logged
    replayed = run_millrace(settings, "replay", NAME, "--start", "2024-02-01", "--end", "2024-02-02", "--json")
    assert replayed.returncode == 0, replayed.stderr
    assert json.loads(replayed.stdout)["failed"] == 0


@pytest.mark.parametrize("path", ["/api/events/in", "/api/events/out", "/api/logs/out"])
@pytest.mark.parametrize("subprotocols", [None, ["prefect"]])
def test_prefect_streams_nothing_without_credentials(
    settings: Settings, path: str, subprotocols: list[str] | None
) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidStatus

    url = settings.prefect_url.replace("http", "ws") + path

    async def enter() -> str:
        async with connect(url, subprotocols=subprotocols) as stream:  # type: ignore[arg-type]
            await stream.send(json.dumps({"type": "auth", "token": "me:wrong"}))
            return str(await asyncio.wait_for(stream.recv(), 30))

    with pytest.raises((ConnectionClosed, InvalidStatus)):
        asyncio.run(enter())


def test_no_secret_is_in_a_process_list_a_log_a_database_or_an_answer(
    settings: Settings, trained: dict[str, Any]
) -> None:
    assert settings.prefect_auth is not None
    assert settings.mlflow_auth is not None
    assert settings.serve_key is not None
    planted = [value.get_secret_value() for value in (settings.prefect_auth, settings.mlflow_auth, settings.serve_key)]
    planted += [value.partition(":")[2] for value in planted[:2]]
    planted += [headers["authorization"].split()[1] for headers in (settings.prefect_headers, settings.mlflow_headers)]
    run = settings.state / "run"
    lines = [
        " ".join(process.cmdline())
        for name in NAMES
        for process in members(settings.state, name, read_record(run, name))
        if process.status() != psutil.STATUS_ZOMBIE
    ]
    assert len(lines) > 8
    told = run_millrace(settings, "status", "--json")
    texts = [("a command line", " ".join(lines)), ("status", told.stdout + told.stderr)]
    folders = (settings.state, Layout(settings.state).short)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 50
    texts += [(str(path), _text(path)) for path in files]
    assert [(where, secret[:3]) for where, text in texts for secret in planted if secret in text] == []


def _text(path: Path) -> str:
    """What is in a file, but for those that are no text anyway; nothing, if it went meanwhile: SQLite's come and go."""
    with suppress(FileNotFoundError):
        if path.stat().st_size < 50_000_000:
            return path.read_bytes().decode("latin-1")
    return ""


def test_its_files_are_of_no_other_users_concern(settings: Settings) -> None:
    for name in ("run", "logs", "prefect", "mlflow"):
        assert (settings.state / name).stat().st_mode & 0o077 == 0
