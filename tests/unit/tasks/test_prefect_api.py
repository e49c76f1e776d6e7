"""What is sent to Prefect: no secret, and every name by which Prefect finds what it is asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from millrace import secrets
from millrace.ledger import Incident
from millrace.settings import Settings
from millrace.window import Window
from tasks.prefect_api import flow_runs, mark_crashed, submit
from tasks.responses import EVENT, send_event


class Server(ThreadingHTTPServer):
    """Keeps what it is sent, and answers with what a test has put there by path."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {}
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def body(self) -> Any:
        """What was sent last."""
        return self.sent[-1][1]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.sent.append((self.path, json.loads(body or "null")))
        answer = self.server.answers.get(self.path, {"id": "1"})
        content = json.dumps(answer(self.server.body) if callable(answer) else answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(prefect_url=f"http://127.0.0.1:{server.server_port}")


@pytest.fixture
def password() -> Iterator[str]:
    """A password that is a word of ours as well, as in postgresql://millrace:millrace@database/millrace."""
    secrets.remember("millrace")
    yield "millrace"
    secrets.forget_all()


def test_a_weak_password_hides_no_flow_run(server: Server, settings: Settings, password: str) -> None:
    server.answers["/api/flow_runs/filter"] = [{"id": "1", "state_type": "RUNNING"}]
    assert [run.id for run in flow_runs(settings, ["RUNNING"])] == ["1"]
    assert server.body["deployments"] == {"tags": {"all_": [password]}}


def test_all_flow_runs_are_listed_however_many_wait(server: Server, settings: Settings) -> None:
    waiting = [{"id": str(number), "state_type": "PAUSED"} for number in range(450)]
    server.answers["/api/flow_runs/filter"] = lambda body: waiting[body["offset"] :][: body["limit"]]
    assert [run.id for run in flow_runs(settings, ["PAUSED"])] == [run["id"] for run in waiting]


def test_a_weak_password_does_not_rename_an_event(server: Server, settings: Settings, password: str) -> None:
    incident = Incident("tiny", "1", "quality", Window.from_key("20240101T000000-20240201T000000"), {})
    send_event(settings, incident)
    (event,) = server.body
    assert event["event"] == EVENT
    assert event["resource"]["millrace.incident"] == incident.key


def test_what_people_write_tells_no_secret(server: Server, settings: Settings, password: str) -> None:
    server.answers["/api/deployments/name/a/b"] = {"id": "7"}
    submit(settings, "a/b", {"requested_by": f"person:{password}"}, name=password)
    assert server.body["parameters"] == {"requested_by": "person:***"}
    assert server.body["name"] == "***"
    mark_crashed(settings, "1", f"it said {password}")
    assert server.body["state"]["message"] == "it said ***"
