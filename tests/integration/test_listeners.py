"""Nobody gets in: every listener of the stack, asked from another machine, from here, and by a browser's page."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from benchmarks.reliability.listeners import Listener, from_here, from_outside, listeners, measure
from benchmarks.reliability.namespace import neighbour, why_not
from benchmarks.reliability.probe import probe
from infra.local.layout import AuxiliaryPorts, Layout
from infra.local.processes import members, read_record
from infra.local.status import NAMES
from millrace.settings import Settings
from tests.tiny import BODY, deploy_tiny

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

FOREIGN = "http://evil.example"


@pytest.fixture(scope="module")
def endpoint(live_settings: Settings) -> str:
    """An application is deployed: its replica listens too."""
    return deploy_tiny(live_settings, "doors")


@pytest.fixture(scope="module")
def ports(live_settings: Settings, endpoint: str) -> dict[int, Listener]:
    return {found.port: found for found in listeners(live_settings) if found.protocol == "tcp"}


@pytest.fixture(scope="module")
def auxiliary(live_settings: Settings, endpoint: str) -> AuxiliaryPorts:
    found = Layout(live_settings.state).read_ports()
    assert found is not None
    return found


@contextmanager
def answering(host: str) -> Iterator[int]:
    """A server that lets everybody in: what a hole would look like."""

    class Open(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((host, 0), Open) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


# Where it listens ---------------------------------------------------------------------------------------------


def test_everything_listens_on_loopback(live_settings: Settings, endpoint: str) -> None:
    assert [str(found) for found in listeners(live_settings) if not found.is_loopback] == []


def test_the_list_has_every_part_and_every_port_that_we_know(
    live_settings: Settings, ports: dict[int, Listener], auxiliary: AuxiliaryPorts
) -> None:
    known = {
        urlsplit(url).port for url in (live_settings.prefect_url, live_settings.mlflow_url, live_settings.serve_url)
    }
    known |= {live_settings.ray_port, *auxiliary.listened}
    assert known <= ports.keys()
    assert any(auxiliary.replica_first <= port <= auxiliary.replica_last for port in ports), "the replica's"
    # GCS, raylet, agents, workers and the replica's gRPC port.
    assert sum(found.part == "ray" for found in ports.values()) >= 12


def test_the_list_would_show_a_listener_on_all_interfaces(live_settings: Settings) -> None:
    with socket.create_server(("0.0.0.0", 0)) as opened:
        number = opened.getsockname()[1]
        own = [found for found in psutil.Process().net_connections("tcp") if found.status == psutil.CONN_LISTEN]
        assert number in {found.laddr.port for found in own}
    assert not Listener("x", "tcp", "::", 1, "").is_loopback
    assert not Listener("x", "tcp", "::ffff:10.0.0.1", 1, "").is_loopback
    assert Listener("x", "tcp", "::ffff:127.0.0.1", 1, "").is_loopback


# From another machine -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def boxed() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(f"no client in a network namespace of its own: {reason}")


@pytest.mark.usefixtures("boxed")
def test_another_machine_reaches_no_port(ports: dict[int, Listener]) -> None:
    found, reason = from_outside(ports)
    assert reason is None
    assert {probed.port for probed in found} == ports.keys()
    assert [str(ports[probed.port]) for probed in found if probed.reached] == []


@pytest.mark.usefixtures("boxed")
def test_another_machine_would_find_a_hole() -> None:
    with answering("0.0.0.0") as port, answering("127.0.0.1") as hidden, neighbour() as box:
        asked = ["-m", "benchmarks.reliability.probe", box.address, str(port), str(hidden)]
        hole, wall = json.loads(box.python(*asked))
    assert hole["reached"]
    assert any(what.startswith("/: 200") for what in hole["served"])
    assert not wall["reached"]
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert box.name not in left


def test_the_figure_of_the_benchmark(live_settings: Settings, endpoint: str) -> None:
    figures = measure(live_settings)
    assert figures["unprotected_listeners"] == 0, figures
    assert figures["listeners"] >= 20
    assert figures["calls_refused_for_want_of_a_token"] > 20


# From here, without the token ---------------------------------------------------------------------------------


def test_ray_refuses_who_has_no_token_or_a_wrong_one(live_settings: Settings, ports: dict[int, Listener]) -> None:
    found = {probed.port: probed for probed in from_here(ports)}
    assert [probed.served for probed in found.values() if probed.served] == []
    by_name = {
        name: [p for p in found if name in ports[p].process] for name in ("gcs_server", "raylet/raylet", "Replica")
    }
    for name, numbers in by_name.items():
        assert sum(found[number].refused for number in numbers) >= 2, f"{name} refuses by the token, not by chance"
    assert live_settings.ray_port in by_name["gcs_server"]


def test_the_probe_would_see_a_ray_that_lets_everybody_in(live_settings: Settings) -> None:
    """The same call with the token is answered: what refuses is the token."""
    import grpc

    token = Layout(live_settings.state).token.read_text()
    with grpc.insecure_channel(f"127.0.0.1:{live_settings.ray_port}") as channel:
        call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        assert call(b"", timeout=10, metadata=[("authorization", f"Bearer {token}")])
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10, metadata=[("authorization", f"Bearer {token[:-1]}x")])
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_driver_without_the_token_does_not_join(live_settings: Settings) -> None:
    code = "import ray, sys; ray.init(sys.argv[1]); print('joined')"

    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH", "MILLRACE_"))}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = subprocess.run(
        [sys.executable, "-c", code, live_settings.ray],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert "joined" not in done.stdout
    assert "uthentication" in done.stderr


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/"),
        ("GET", "/api/serve/applications/"),
        ("PUT", "/api/serve/applications/"),
        ("DELETE", "/api/serve/applications/"),
        ("GET", "/nodes?view=summary"),
        ("GET", "/api/v0/actors"),
        ("GET", "/api/cluster_status"),
        ("GET", "/api/v0/logs?node_id=x"),
    ],
)
def test_the_dashboard_refuses_who_has_no_token(method: str, path: str, auxiliary: AuxiliaryPorts) -> None:
    url = f"http://127.0.0.1:{auxiliary.dashboard}{path}"
    body = {"entrypoint": "true"} if method == "POST" else None
    assert httpx.request(method, url, json=body, timeout=30).status_code == 401
    wrong = {"authorization": f"Bearer {'0' * 64}"}
    assert httpx.request(method, url, json=body, headers=wrong, timeout=30).status_code == 403


# A browser's page of another origin ---------------------------------------------------------------------------


def _servers(settings: Settings, auxiliary: AuxiliaryPorts) -> dict[str, tuple[str, str, Any]]:
    """For each server a request that changes or asks something: base URL, path, body."""
    return {
        "prefect": (settings.prefect_url, "/api/flows/filter", {}),
        "mlflow": (settings.mlflow_url, "/api/2.0/mlflow/experiments/search", {"max_results": 1}),
        "serve": (settings.serve_url, "/v1/doors/predict", BODY),
        "dashboard": (f"http://127.0.0.1:{auxiliary.dashboard}", "/api/jobs/", {"entrypoint": "true"}),
        "agent": (f"http://127.0.0.1:{auxiliary.agent}", "/api/job_agent/jobs/", {"entrypoint": "true"}),
        "fallback proxy": (f"http://127.0.0.1:{auxiliary.fallback_proxy}", "/v1/doors/predict", BODY),
    }


@pytest.mark.parametrize("name", ["prefect", "mlflow", "serve", "dashboard", "agent", "fallback proxy"])
@pytest.mark.parametrize("origin", [FOREIGN, "null", "http://127.0.0.1:1", "http://localhost:3000"])
def test_a_page_of_another_origin_changes_nothing(
    name: str, origin: str, live_settings: Settings, auxiliary: AuxiliaryPorts
) -> None:
    base, path, body = _servers(live_settings, auxiliary)[name]
    # As a browser sends it without asking first: a "simple" request.
    sent = httpx.post(base + path, content=json.dumps(body), headers={"origin": origin, "content-type": "text/plain"})
    assert sent.status_code in (401, 403)
    asked = httpx.options(base + path, headers={"origin": origin, "access-control-request-method": "POST"})
    for answer in (sent, asked):
        assert answer.headers.get("access-control-allow-origin") not in ("*", origin) or answer.status_code in (
            401,
            403,
        )


@pytest.mark.parametrize("name", ["prefect", "mlflow", "serve", "dashboard", "fallback proxy"])
def test_a_page_of_another_origin_may_read_nothing(
    name: str, live_settings: Settings, auxiliary: AuxiliaryPorts
) -> None:
    base, path, _ = _servers(live_settings, auxiliary)[name]
    for asked in ("/", path):
        answer = httpx.get(base + asked, headers={"origin": FOREIGN})
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("name", ["prefect", "mlflow", "serve", "fallback proxy"])
def test_a_name_that_somebody_points_to_loopback_is_refused(
    name: str, live_settings: Settings, auxiliary: AuxiliaryPorts
) -> None:
    base, path, body = _servers(live_settings, auxiliary)[name]
    answer = httpx.post(base + path, json=body, headers={"host": "evil.example"})
    # Serve wants a key first, which such a page does not have.
    assert answer.status_code == (403 if name in ("prefect", "mlflow") else 401)


def test_the_pages_themselves_work_at_their_own_address(live_settings: Settings, endpoint: str) -> None:
    """What Prefect's and MLflow's UIs load and then send, with the Origin that a browser adds."""
    for base in (live_settings.prefect_url, live_settings.prefect_url.replace("127.0.0.1", "localhost")):
        page = httpx.get(base + "/", headers={"accept": "text/html"}, follow_redirects=True)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        api = httpx.get(f"{base}/ui-settings", headers={"origin": base}).json()["api_url"]
        # Asked under the other name for loopback, the API is another origin: the browser asks first.
        asked = {
            "origin": base,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        }
        first = httpx.options(f"{api}/flows/filter", headers=asked)
        assert (first.status_code, first.headers["access-control-allow-origin"]) == (200, base)
        answer = httpx.post(f"{api}/flows/filter", json={}, headers={"origin": base})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, base)
    base = live_settings.mlflow_url
    assert "<html" in httpx.get(base + "/").text
    body = {"max_results": 1}
    answer = httpx.post(f"{base}/ajax-api/2.0/mlflow/experiments/search", json=body, headers={"origin": base})
    assert answer.status_code == 200
    answer = httpx.post(
        f"{endpoint}/predict", json=BODY, headers={"origin": live_settings.serve_url, **live_settings.serve_headers}
    )
    assert answer.status_code == 200


# What a process list shows ------------------------------------------------------------------------------------


def test_no_command_line_shows_the_token(live_settings: Settings) -> None:
    token = Layout(live_settings.state).token.read_text()
    run = live_settings.state / "run"
    lines = [
        " ".join(process.cmdline())
        for name in NAMES
        for process in members(live_settings.state, name, read_record(run, name))
    ]
    assert len(lines) > 8
    assert not [line for line in lines if token in line]


def test_the_probe_knows_a_closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        closed = opened.getsockname()[1]
    assert not probe("127.0.0.1", closed).reached
    with answering("127.0.0.1") as port:
        assert probe("127.0.0.1", port).served
