"""Serving on a real Ray cluster behind HAProxy: first deploy, swap under load, refusals, and a killed replica.

The cluster is this module's own: its ports, folders and token are fresh, and nothing of it is left behind. The driver
is a process of its own, as a flow's is, so that its environment is the stack's and not this test run's.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest
import torch
import yaml

from infra.local.environment import SERVE_MODE
from millrace import inference_log
from millrace.encoding import TableInputs
from millrace.package import PROBE, LabelScale, Predictor, publish_package
from millrace.pipeline import load_pipeline
from millrace.signing import Keys
from millrace.storage import ObjectStore
from ray_jobs.serve.plan import TrafficPlan
from tests.waiting import until

DRIVER = """
import dataclasses, json, sys
import ray
from millrace.errors import MillraceError
from millrace.settings import load_settings
from ray_jobs.serve import deploy
from ray_jobs.serve.plan import TrafficPlan
from ray_jobs.serve.versions import Target

settings = load_settings()
ray.init(settings.ray, log_to_driver=False)

def start(host, port):
    from ray import serve
    serve.start(http_options={"host": host, "port": port})

def replicas(name):
    from ray.serve.context import _get_global_client
    application = _get_global_client().get_serve_details()["applications"][name]
    return [r["pid"] for r in application["deployments"]["model"]["replicas"] if r["state"] == "RUNNING"]

def answer(name, *arguments):
    if name in ("start", "replicas"):
        return globals()[name](*arguments)
    if name == "deploy":
        arguments = (arguments[0], Target(*arguments[1:]))
    if name == "divide":
        name, arguments = "deploy", (arguments[0], TrafficPlan.from_config(arguments[1]))
    found = deploy.remove(*arguments) if name == "remove" else getattr(deploy, name)(settings, *arguments)
    return found and dataclasses.asdict(found)

for line in sys.stdin:
    try:
        reply = {"value": answer(*json.loads(line))}
    except MillraceError as error:
        reply = {"error": type(error).__name__, "message": str(error)}
    print("reply " + json.dumps(reply), flush=True)
ray.shutdown()
"""

MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(len(inputs.numeric) + len(inputs.categorical), 1)

    def forward(self, batch):
        return self.layer(torch.cat([batch["numeric"], batch["categorical"].float()], 1))

def build(inputs, options):
    return Tiny(inputs)
"""

pytestmark = pytest.mark.integration

SPEC = {
    "name": "tiny",
    "data": {
        "source": "source:S",
        "event_time": "departs",
        "row_id": "flight",
        "features": {"delay": {"kind": "numeric"}, "carrier": {"kind": "categorical", "values": ["AA", "UA"]}},
        "label": {"column": "late", "kind": "binary"},
    },
    "evaluation": {"metric": "roc_auc"},
    "serving": {"log_rotate_seconds": 1.0, "cpus_per_replica": 0.5},
}
BODY = {"rows": [{"delay": 1.5, "carrier": "UA"}]}


class Cluster:
    """A Ray head, Serve behind HAProxy, a driver, and a pipeline `tiny` with packages."""

    def __init__(self, root: Path) -> None:
        # Ray's sockets lie below this folder, and their paths may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))
        self.root = root
        self.packages = _packages(root)
        ports = _free_ports(10)
        self.port = ports[0]
        self.url = f"http://127.0.0.1:{self.port}/v1/tiny"
        self.environment = _environment(root, self.folder, ports)
        self._head = self._start_head(ports)
        with (self.folder / "driver.log").open("w") as log:
            self._driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.ask("start", "127.0.0.1", self.port)

    def ask(self, *call: object) -> Any:
        """What the driver answers; an error is its name."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(json.dumps(call) + "\n")
        self._driver.stdin.flush()
        for line in self._driver.stdout:
            if line.startswith("reply "):
                reply = json.loads(line.removeprefix("reply "))
                return reply.get("value", reply)
        raise AssertionError((self.folder / "driver.log").read_text()[-3000:])

    def deploy(self, version: str) -> Any:
        return self.ask("deploy", "tiny", version, *self.packages[version])

    def divide(self, plan: TrafficPlan) -> Any:
        return self.ask("divide", "tiny", plan.as_config())

    def close(self) -> list[psutil.Process]:
        """Stop all of it; the processes that would not go."""
        for pipe in (self._driver.stdin, self._driver.stdout):
            assert pipe is not None
            pipe.close()
        self._driver.wait(30)
        head = psutil.Process(self._head.pid)
        alive = self._kill([head, *head.children(recursive=True)])
        self._head.wait(10)
        # HAProxy is started anew for each change of its targets, and outlives the process that started it.
        alive += self._kill([found for found in psutil.process_iter(["cmdline"]) if self._is_ours(found)])
        shutil.rmtree(self.folder, ignore_errors=True)
        return alive

    def _kill(self, processes: list[psutil.Process]) -> list[psutil.Process]:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        alive: list[psutil.Process] = psutil.wait_procs(processes, timeout=10)[1]
        return alive

    def _is_ours(self, process: psutil.Process) -> bool:
        return any(str(self.folder) in part for part in process.info["cmdline"] or [])

    def _start_head(self, ports: list[int]) -> subprocess.Popen[bytes]:
        names = (
            "object-manager-port",
            "node-manager-port",
            "ray-client-server-port",
            "dashboard-agent-listen-port",
            "metrics-export-port",
        )
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={ports[1]}"]
        command += [f"--{name}={port}" for name, port in zip(names, ports[5:], strict=True)]
        command += [f"--temp-dir={self.folder}/ray", "--num-cpus=2", "--include-dashboard=false"]
        command += ["--object-store-memory=100000000", "--node-ip-address=127.0.0.1", "--min-worker-port=0"]
        command += ["--max-worker-port=0", "--include-log-monitor=false", "--disable-usage-stats"]
        log = self.folder / "head.log"
        with log.open("wb") as file:
            head = subprocess.Popen(command, env=self.environment, stdout=file, stderr=subprocess.STDOUT)

        def is_up() -> bool:
            assert head.poll() is None, log.read_text()[-3000:]
            return "Ray runtime started" in log.read_text()

        until(is_up, "the Ray head")
        return head


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for entry in sockets:
        entry.bind(("127.0.0.1", 0))
    ports = [entry.getsockname()[1] for entry in sockets]
    for entry in sockets:
        entry.close()
    return ports


def _environment(root: Path, folder: Path, ports: list[int]) -> dict[str, str]:
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    haproxy = folder / "haproxy"
    haproxy.mkdir()
    # Serve takes the first free of these for a replica; below the range that the kernel gives out by itself.
    first = 20_000 + os.getpid() % 100 * 100
    return {
        **os.environ,
        "MILLRACE_STATE_DIR": str(root / "state"),
        "MILLRACE_PIPELINES_DIR": str(root / "pipelines"),
        "MILLRACE_RAY_PORT": str(ports[1]),
        "MILLRACE_SERVE_URL": f"http://127.0.0.1:{ports[0]}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        **SERVE_MODE,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0.5",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 49),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + 50),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + 99),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[2]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[3]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
    }


def _packages(root: Path) -> dict[str, tuple[str, str]]:
    folder = root / "pipelines" / "tiny"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(SPEC))
    (folder / "model.py").write_text(MODEL)
    pipeline = load_pipeline("tiny", root / "pipelines")
    keys = Keys(root / "state" / "signing.key")
    keys.create()
    store = ObjectStore(str(root / "state" / "objects"), keys)
    rows = pd.DataFrame({"delay": [1.0, 2.0], "carrier": ["AA", "UA"], "late": [0, 1]})
    found: dict[str, tuple[str, str]] = {}
    for version in ("1", "2", "3"):
        torch.manual_seed(int(version))
        predictor = Predictor(
            pipeline.spec, pipeline.build_model(TableInputs.shaped(pipeline.spec.data), {}).eval(), LabelScale()
        )
        package = publish_package(
            store, f"packages/{version}", predictor=predictor, reference=rows, card="", lineage={}, metrics={}
        )
        found[version] = (package.key, package.digest)
    files = {name: package.read(name) for name in package.entries}
    probe = json.loads(files[PROBE])
    files[PROBE] = json.dumps(probe | {"answers": [1 - value for value in probe["answers"]]}).encode()
    broken = store.publish("packages/broken", files)
    return found | {"broken": (broken.key, broken.digest), "other": (package.key, "0" * 64)}


class Load:
    """Eight callers that ask without a pause; each request with its times, its answer and its version."""

    def __init__(self, url: str) -> None:
        self.requests: list[tuple[float, float, str, str]] = []
        self.failures: list[str] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(8)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, caller: int) -> None:
        with httpx.Client(timeout=30) as client:
            number = 0
            while not self._stop.is_set():
                number += 1
                request_id = f"{id(self)}-{caller}-{number}"
                sent = time.monotonic()
                try:
                    answer = client.post(f"{self._url}/predict", json=BODY, headers={"x-request-id": request_id})
                    answer.raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                self.requests.append((sent, time.monotonic(), request_id, answer.json()["version"]))

    def wait(self, more: int) -> None:
        """Until `more` further requests are answered."""
        goal = len(self.requests) + more
        until(lambda: len(self.requests) >= goal, f"{more} more answers")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("serving"))
    try:
        yield cluster
    finally:
        assert cluster.close() == []


def version_of(cluster: Cluster) -> Any:
    return httpx.get(f"{cluster.url}/ready", timeout=30).json().get("version")


def test_a_package_that_cannot_be_served_is_refused_on_the_first_deploy(cluster: Cluster) -> None:
    assert cluster.deploy("other")["error"] == "DigestError"
    refused = cluster.deploy("broken")
    assert refused["error"] == "PackageError"
    assert "probe rows" in refused["message"]
    assert cluster.ask("serving", "tiny") is None


def test_a_prediction_is_answered_over_http(cluster: Cluster) -> None:
    deployed = cluster.deploy("1")
    assert (deployed["name"], deployed["version"], deployed["replicas"]) == ("tiny", "1", 1)
    assert deployed["url"] == cluster.url
    until(lambda: httpx.get(f"{cluster.url}/ready").status_code == 200, "the route")
    answer = httpx.post(f"{cluster.url}/predict", json=BODY, headers={"x-request-id": "me"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == "me"
    assert answer.json()["request_id"] == "me"
    assert 0 < answer.json()["predictions"][0]["probability"] < 1
    refused = httpx.post(f"{cluster.url}/predict", json={"rows": [{"delay": "x"}]})
    assert (refused.status_code, refused.json()["field"]) == (422, "/rows/0/delay")
    accepted = httpx.post(f"{cluster.url}/outcomes", json={"outcomes": [{"request_id": "me", "label": 1}]})
    assert accepted.status_code == 202
    data = load_pipeline("tiny", cluster.root / "pipelines").spec.data
    joined = inference_log.read_joined(cluster.root / "state" / "inference" / "tiny", data)
    assert joined.set_index("request_id").loc["me", "label"] == 1.0


def test_deploying_what_serves_changes_nothing(cluster: Cluster) -> None:
    cluster.deploy("1")
    replicas = cluster.ask("replicas", "tiny")
    assert cluster.deploy("1")["seconds"] < 1
    assert cluster.ask("replicas", "tiny") == replicas


def test_a_new_version_replaces_the_old_under_load_and_no_request_fails(cluster: Cluster) -> None:
    cluster.deploy("1")
    replicas = cluster.ask("replicas", "tiny")
    swapped: list[tuple[float, str]] = []
    with Load(cluster.url) as load:
        for version in ("2", "3", "1", "2"):
            load.wait(100)
            assert cluster.deploy(version)["version"] == version
            swapped.append((time.monotonic(), version))
        load.wait(100)
    assert load.failures == []
    assert cluster.ask("replicas", "tiny") == replicas
    ends = [moment for moment, _ in swapped[1:]] + [time.monotonic()]
    for (start, version), end in zip(swapped, ends, strict=True):
        # Once a deploy has returned, and until the next version first answers, only its version answers.
        after = [found for sent, _, _, found in load.requests if start <= sent < end]
        assert after[:50] == [version] * 50


@pytest.mark.parametrize(("version", "error"), [("other", "DigestError"), ("broken", "PackageError")])
def test_a_bad_package_is_refused_and_the_old_version_serves_on(cluster: Cluster, version: str, error: str) -> None:
    cluster.deploy("2")
    replicas = cluster.ask("replicas", "tiny")
    with Load(cluster.url) as load:
        assert cluster.deploy(version)["error"] == error
        load.wait(50)
    assert load.failures == []
    assert {found for *_, found in load.requests} == {"2"}
    assert cluster.ask("serving", "tiny")["version"] == "2"
    assert cluster.ask("replicas", "tiny") == replicas


def test_a_killed_replica_comes_back_and_every_answer_is_in_the_log(cluster: Cluster) -> None:
    cluster.deploy("3")
    (replica,) = cluster.ask("replicas", "tiny")
    with Load(cluster.url) as load:
        load.wait(200)
        os.kill(replica, signal.SIGKILL)
        until(lambda: cluster.ask("replicas", "tiny") not in ([replica], []), "a new replica")
        load.wait(100)
    assert version_of(cluster) == "3"
    assert {found for *_, found in load.requests} == {"3"}
    data = load_pipeline("tiny", cluster.root / "pipelines").spec.data
    rows = inference_log.read_answers(cluster.root / "state" / "inference" / "tiny", data)
    assert {request_id for _, _, request_id, _ in load.requests} <= set(rows["request_id"])
    assert not list((cluster.root / "state" / "inference" / "tiny" / "answers").glob(f"*-{replica}-*.jsonl"))


def test_a_removed_pipeline_is_not_served(cluster: Cluster) -> None:
    cluster.deploy("1")
    cluster.ask("remove", "tiny")
    assert cluster.ask("serving", "tiny") is None
    until(lambda: httpx.get(f"{cluster.url}/health").status_code == 404, "the route to go")
