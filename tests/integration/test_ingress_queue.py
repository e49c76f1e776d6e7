"""The queue at the ingress: HAProxy with what Ray writes for it, corrected; the test holds the replica's answers."""

from __future__ import annotations

import csv
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from infra.local import parts
from infra.local.ports import free_ports
from infra.local.start import haproxy_binary
from millrace.ingress_queue import IngressQueue
from millrace.settings import Settings
from tests.waiting import until

SECONDS = 20.0
_TURNS = 60


@dataclass
class HeldReplica:
    """Answers each request when the test says so; what it was asked, in the order in which it came."""

    came: list[dict[str, str]] = field(default_factory=list)
    #: Names of requests that it refuses, and asks the ingress to refuse their customer's next ones.
    refused: set[str] = field(default_factory=set)
    _waiting: dict[str, threading.Event] = field(default_factory=dict)

    def names(self) -> list[str]:
        return [headers["x-name"] for headers in self.came]

    def take(self, headers: dict[str, str]) -> None:
        released = self._waiting.setdefault(headers["x-name"], threading.Event())
        self.came.append(headers)
        assert released.wait(SECONDS)

    def release(self, name: str) -> None:
        self._waiting.setdefault(name, threading.Event()).set()


@contextmanager
def serving(replica: HeldReplica) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # HAProxy asks whether it lives
            self._reply(b"success")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            replica.take({name.lower(): value for name, value in self.headers.items()})
            if self.headers["x-name"] in replica.refused:
                self._reply(body, 429, ("x-ingress-hold", "1"), ("retry-after", "7"))
            else:
                self._reply(body)

        def _reply(self, body: bytes, status: int = 200, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            for header in headers:
                self.send_header(*header)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # HAProxy has seen enough of a health check's answer, or is gone
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Ingress:
    """The running HAProxy, and who asks it."""

    url: str
    port: int
    stats: int
    replica: HeldReplica
    callers: ThreadPoolExecutor
    client: httpx.Client

    def ask(self, name: str, key: str = "", **headers: str) -> Future[httpx.Response]:
        sent = {"x-name": name, **({"authorization": f"Bearer {key}"} if key else {}), **headers}
        return self.callers.submit(self.client.post, self.url, content=b"{}", headers=sent)

    def waiting(self) -> int:
        """Requests that wait for their turn, as HAProxy counts them."""
        rows = csv.DictReader(
            self.client.get(f"http://127.0.0.1:{self.stats}/stats;csv").text.lstrip("# ").splitlines()
        )
        (total,) = [row["qcur"] for row in rows if (row["pxname"], row["svname"]) == ("http-fares", "BACKEND")]
        return int(total)


@contextmanager
def ingress(folder: Path, queue: IngressQueue) -> Iterator[Ingress]:
    """HAProxy before one replica that is held back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pydantic, at Ray's definitions
        from ray.serve._private import haproxy
        from ray.serve.config import HTTPOptions
    replica = HeldReplica()
    port, stats, metrics = free_ports(3)
    with ExitStack() as stack:
        settings = Settings(state_dir=folder / "state", serve_url=f"http://127.0.0.1:{port}")
        queue.write(settings, "fares")
        config = haproxy.HAProxyConfig(
            http_options=HTTPOptions(host="127.0.0.1", port=port),
            stats_port=stats,
            metrics_port=metrics,
            metrics_enabled=False,
            socket_path=str(folder / "admin.sock"),
            server_state_base=str(folder),
            server_state_file=str(folder / "server-state"),
            log_target=str(folder / "log.sock"),
            has_received_routes=True,
            has_received_servers=True,
        )
        server = haproxy.ServerConfig("replica", "127.0.0.1", stack.enter_context(serving(replica)))
        backend = haproxy.BackendConfig("http-fares", "/v1/fares", servers=[server], app_name="fares")
        path = folder / "haproxy.cfg"
        api = haproxy.HAProxyApi(config, {backend.name: backend}, str(path))
        api._generate_config_file_internal()
        script = folder / "haproxy"
        script.write_text(parts.haproxy_script(haproxy_binary(), settings))
        script.chmod(0o700)
        said = stack.enter_context((folder / "said").open("w+"))
        process = subprocess.Popen([script, "-db", "-f", path], stderr=said)
        stack.callback(lambda: (process.kill(), process.wait()))
        url = f"http://127.0.0.1:{port}/v1/fares/predict"
        callers = stack.enter_context(ThreadPoolExecutor(32))
        client = stack.enter_context(httpx.Client(timeout=SECONDS, trust_env=False))
        found = Ingress(url, port, stats, replica, callers, client)
        until(lambda: process.poll() is not None or _listens(port), "HAProxy", SECONDS, every=0.01)
        assert process.poll() is None, (folder / "said").read_text()
        yield found


def _listens(port: int) -> bool:
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def test_a_replica_gets_so_many_at_once_and_who_waits_too_long_is_told_when_to_come_again(tmp_path: Path) -> None:
    with ingress(tmp_path, IngressQueue(2, 0.2)) as found:
        answered = [found.ask("a"), found.ask("b")]
        until(lambda: len(found.replica.came) == 2, "two at the replica", SECONDS, every=0.01)
        refused = found.ask("c").result()
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["status"] == 503
        assert "turn" in refused.json()["detail"]
        assert found.replica.names().count("c") == 0, "what is refused costs the replica nothing"
        for name in "ab":
            found.replica.release(name)
        assert [future.result().status_code for future in answered] == [200, 200]


def test_customers_take_turns(tmp_path: Path) -> None:
    with ingress(tmp_path, IngressQueue(1, SECONDS)) as found:
        asked = [found.ask("greedy0", "one")]
        until(lambda: found.replica.came, "the first at the replica", SECONDS, every=0.01)
        for number, (name, key) in enumerate(
            [("greedy1", "one"), ("greedy2", "one"), ("greedy3", "one"), ("other0", "two"), ("other1", "two")]
        ):
            asked.append(found.ask(name, key))
            until(lambda: found.waiting() == number + 1, f"{name} in the queue", SECONDS, every=0.01)  # noqa: B023
        for count in range(1, 7):
            until(lambda: len(found.replica.came) == count, "the next at the replica", SECONDS, every=0.01)  # noqa: B023
            found.replica.release(found.replica.names()[-1])
        assert {future.result().status_code for future in asked} == {200}
        # greedy1 is the second of its customer, as other1 is, and came before it.
        assert found.replica.names() == ["greedy0", "other0", "greedy1", "other1", "greedy2", "greedy3"]


def test_without_a_key_the_first_to_come_is_the_first_in_turn(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    with ingress(tmp_path, IngressQueue(1, SECONDS)) as found:
        asked = []
        for number, name in enumerate(names):
            asked.append(found.ask(name))
            until(lambda: len(found.replica.came) + found.waiting() == number + 1, name, SECONDS, every=0.01)  # noqa: B023
        for name in names:
            found.replica.release(name)
        assert {future.result().status_code for future in asked} == {200}
        assert found.replica.names() == names


def test_the_replica_hears_how_many_come_only_while_some_wait_and_from_nobody_else(tmp_path: Path) -> None:
    with ingress(tmp_path, IngressQueue(1, SECONDS)) as found:
        asked = []
        for number, name in enumerate("abc"):
            asked.append(found.ask(name, **{"x-ingress-rate": "1000000"}))
            until(lambda: len(found.replica.came) + found.waiting() == number + 1, name, SECONDS, every=0.01)  # noqa: B023
        for name in "abc":
            found.replica.release(name)
        assert {future.result().status_code for future in asked} == {200}
        told = [headers.get("x-ingress-rate") for headers in found.replica.came]
        assert told[:2] == [None, None]
        assert told[2] is not None
        assert 1 <= int(told[2]) <= 3


def test_who_sends_slowly_takes_nobodys_place(tmp_path: Path) -> None:
    with ingress(tmp_path, IngressQueue(1, SECONDS)) as found, socket.socket() as slow:
        slow.connect(("127.0.0.1", found.port))
        slow.sendall(b"POST /v1/fares/predict HTTP/1.1\r\nhost: a\r\nx-name: slow\r\ncontent-length: 2\r\n\r\n{")
        found.replica.release("quick")
        assert found.ask("quick").result().status_code == 200
        found.replica.release("slow")
        slow.sendall(b"}")
        slow.settimeout(SECONDS)
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
        assert found.replica.names() == ["quick", "slow"]


def test_whom_a_replica_refuses_the_ingress_refuses_for_a_moment_and_tells_how_often(tmp_path: Path) -> None:
    with ingress(tmp_path, IngressQueue(8, SECONDS)) as found:
        found.replica.refused.add("first")
        for name in ("first", "other", "after"):
            found.replica.release(name)
        # Refused by the replica, which says so to the ingress and not to who asked.
        first = found.ask("first", "greedy").result()
        assert (first.status_code, first.headers["retry-after"]) == (429, "7")
        assert "x-ingress-hold" not in first.headers
        held = 0
        while (answer := found.ask("after", "greedy", **{"x-ingress-refused": "5"}).result()).status_code == 429:
            held += 1
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["type"] == "urn:millrace:error:too-many-requests"
            assert found.ask("other", "modest").result().status_code == 200, "nobody else is held"
        assert answer.status_code == 200, "it is not held for long"
        assert held, "the ingress has refused none"
        (told,) = [headers for headers in found.replica.came if headers["x-name"] == "after"]
        assert told["x-ingress-refused"] == str(held)
        assert found.ask("after", "greedy").result().status_code == 200
        assert "x-ingress-refused" not in found.replica.came[-1], "it is told once"


def test_nobody_is_held_for_good(tmp_path: Path) -> None:
    """Many at once, over and over: HAProxy's threads race for the customer's entry."""
    with ingress(tmp_path, IngressQueue(8, SECONDS)) as found:
        found.replica.refused.add("greedy")
        found.replica.release("greedy")
        found.replica.release("heavy")
        for turn in range(_TURNS):
            asked = [found.ask(name, "greedy") for name in ("greedy", "heavy") * 8]
            assert {future.result().status_code for future in asked} <= {200, 429}
            came = len(found.replica.came)
            until(
                lambda: found.ask("heavy", "greedy").result().status_code == 200,
                f"the end of hold {turn}",
                SECONDS,
                every=0.001,
            )
            assert len(found.replica.came) > came
