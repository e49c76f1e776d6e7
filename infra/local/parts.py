"""The parts of the stack: the command, the extra environment and the health check of each."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.local import haproxy_config
from infra.local.doors import listen_hosts
from infra.local.environment import environment
from infra.local.health import LOOPBACK_HOSTS, answers, ask, listens
from infra.local.layout import AuxiliaryPorts, Layout
from millrace.ingress_queue import queues_folder
from millrace.settings import Settings
from millrace.storage import digest_bytes

# Two trainers, stage tasks and replicas are mostly waiting; fewer logical CPUs than this would make them queue.
_MIN_LOGICAL_CPUS = 6
_OBJECT_STORE_BYTES = 512 * 1024 * 1024
_CHILD_PATIENCE_S = 90
# It ticks once a second; a service that it asks may take a while to say that it is away.
_TICK_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Part:
    """One part. `listen` is the port it must get, with the setting that moves it; `ready` asks it."""

    name: str
    address: str
    local: bool
    command: tuple[str, ...]
    extra: Mapping[str, str]
    ready: Callable[[], bool]
    listen: tuple[str, int, str, str] | None = None
    cwd: Path | None = None

    def env(self, settings: Settings) -> dict[str, str]:
        """The child's whole environment."""
        values = {**os.environ, **environment(settings), **self.extra}
        if self.name == "ray":
            values.pop("RAY_ADDRESS")  # the start hook sets it, see there
        return values


def _listen(url: str, setting: str) -> tuple[str, int, str, str]:
    parts = urlsplit(url)
    port = parts.port or 443
    return "127.0.0.1", port, setting, f"http://127.0.0.1:{port + 1}"


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS


def prefect(settings: Settings, layout: Layout) -> Part:
    """The server as `prefect server start --background` runs it, without that command's own start-up."""
    _, port, *_ = listen = _listen(settings.prefect_url, "MILLRACE_PREFECT_URL")
    return Part(
        name="prefect",
        address=settings.prefect_url,
        local=_is_local(settings.prefect_url),
        command=(sys.executable, "-m", "infra.local.run_web", "prefect"),
        extra={
            "PREFECT__SERVER_FINAL": "1",
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(port),
            **prefect_doors(settings),
        },
        ready=lambda: answers(f"{settings.prefect_api_url}/ready"),
        listen=listen,
        cwd=layout.state,
    )


def prefect_doors(settings: Settings) -> dict[str, str]:
    """Who may ask the server; without these everybody, from pages of any origin."""
    port = urlsplit(settings.prefect_url).port
    values = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}"}
    if settings.prefect_auth is not None:
        values["PREFECT_SERVER_API_AUTH_STRING"] = settings.prefect_auth.get_secret_value()
    if settings.listens_elsewhere:
        # A browser elsewhere must not look for the API on its own machine's loopback.
        values["PREFECT_UI_API_URL"] = "/api"
    return values


def worker_name(settings: Settings) -> str:
    return f"local-{digest_bytes(str(settings.state).encode())[:8]}"


def worker(settings: Settings, layout: Layout, created: float | None) -> Part:
    """The process worker; ready once the server has had a heartbeat of the process that started at `created`."""

    def ready() -> bool:
        url = f"{settings.prefect_api_url}/work_pools/{settings.work_pool}/workers/filter"
        status, body = ask(url, body={}, headers=settings.prefect_headers)
        if status != 200 or created is None:
            return False
        beats = {found["name"]: found["last_heartbeat_time"] for found in json.loads(body)}
        beat = beats.get(worker_name(settings))
        return beat is not None and datetime.fromisoformat(beat).timestamp() >= created

    pipelines_parent = settings.pipelines.parent
    return Part(
        name="worker",
        address=f"work pool {settings.work_pool}",
        local=_is_local(settings.prefect_url),
        command=(
            sys.executable, "-m", "infra.local.run_worker", "--pool", settings.work_pool,
            "--name", worker_name(settings), "--patience-s", str(_CHILD_PATIENCE_S),
            "--socket", str(layout.short / "warm"),
        ),
        extra={},
        ready=ready,
        # Flow runs start here, so entry points in prefect.yaml may be relative to the repository.
        cwd=pipelines_parent if pipelines_parent.is_dir() else settings.state,
    )  # fmt: skip


def reconciler(settings: Settings, layout: Layout, created: float | None) -> Part:
    """What closes every gap between ledger and world; ready once the process that started at `created` has ticked."""
    tick = layout.run / "reconciler.tick"

    def ready() -> bool:
        if created is None or not tick.exists():
            return False
        ticked = tick.stat().st_mtime
        return ticked >= created and time.time() - ticked < _TICK_PATIENCE_S

    return Part(
        name="reconciler",
        address=settings.prefect_url,
        local=_is_local(settings.prefect_url),
        command=(sys.executable, "-m", "tasks.reconciler"),
        extra={},
        ready=ready,
        cwd=layout.state,
    )


def mlflow_variables(layout: Layout) -> dict[str, str]:
    """What `mlflow server` hands to the workers it forks: internal names of the pinned release, which a test checks."""
    return {
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{layout.state}/mlflow/mlflow.db",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(layout.state / "mlflow" / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
    }


def mlflow(settings: Settings, layout: Layout) -> Part:
    """MLflow's app in one process; its own command starts ten: servers, job runners and their parents."""
    _, port, *_ = listen = _listen(settings.mlflow_url, "MILLRACE_MLFLOW_URL")
    return Part(
        name="mlflow",
        address=settings.mlflow_url,
        local=_is_local(settings.mlflow_url),
        command=(sys.executable, "-m", "infra.local.run_web", "mlflow"),
        extra={
            **mlflow_variables(layout),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # Beyond loopback it is asked under names that only its network knows; credentials protect it there.
            "MLFLOW_SERVER_ALLOWED_HOSTS": (
                "*" if settings.listens_elsewhere else f"127.0.0.1:{port},localhost:{port}"
            ),
        },
        # /health answers before the database is there; the default experiment does not.
        ready=lambda: answers_experiments(settings),
        listen=listen,
        cwd=layout.state,
    )


def answers_experiments(settings: Settings) -> bool:
    url = f"{settings.mlflow_url}/api/2.0/mlflow/experiments/search"
    status, _ = ask(url, body={"max_results": 1}, headers=settings.mlflow_headers, timeout_s=10)
    return status == 200


def ray(settings: Settings, layout: Layout, ports: AuxiliaryPorts | None) -> Part:
    """A Ray head with everything on loopback: see `environment` for how."""
    p = ports or AuxiliaryPorts.in_block(0)
    num_cpus = max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1)
    options: dict[str, Any] = {
        "port": settings.ray_port,
        "node-ip-address": "127.0.0.1",
        "num-cpus": num_cpus,
        "object-store-memory": _OBJECT_STORE_BYTES,
        "temp-dir": layout.ray_temp,
        # Ray Train asks the dashboard's state API whether a controller still lives.
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": p.dashboard,
        "dashboard-agent-listen-port": p.agent,
        "metrics-export-port": p.ray_metrics,
        # Any port the system gives: the default range is fixed and would be shared by two stacks.
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    return Part(
        name="ray",
        address=settings.ray,
        local=settings.ray_address is None,
        command=(
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
            "--log-color=false", *(f"--{name}={value}" for name, value in options.items()),
        ),
        extra={
            # A laptop's stack has more workers than cores by design; Ray would warn into every driver's terminal.
            "RAY_worker_maximum_startup_concurrency": "16",
            # Ray makes its workers nicer than all else; here they are the work.
            "RAY_worker_niceness": "0",
            "RAY_START_HOOK": "infra.local.ray_hook.adjust",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(layout.run / "haproxy"),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(layout.haproxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(layout.haproxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(layout.haproxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(layout.haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(layout.haproxy / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(p.haproxy_stats),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(p.haproxy_metrics),
            # The access log. Nobody reads it, and by default it goes to port 514 from a UDP socket on all interfaces.
            "RAY_SERVE_HAPROXY_LOG_TARGET": str(layout.haproxy / "log.sock"),
            # An HAProxy replaced by a reload lives as long as its last kept-alive connection, at most this long.
            "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "15",
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(p.fallback_proxy),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(p.replica_first),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(p.replica_last),
        },
        ready=lambda: (
            ports is not None
            and answers(f"http://127.0.0.1:{p.dashboard}/api/gcs_healthz")
            and answers(f"http://127.0.0.1:{p.agent}/api/local_raylet_healthz")
        )
        if settings.ray_address is None
        else _ray_listens(settings.ray),
        listen=("127.0.0.1", settings.ray_port, "MILLRACE_RAY_PORT", str(settings.ray_port + 1)),
        cwd=layout.state,
    )  # fmt: skip


def _ray_listens(address: str) -> bool:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return port.isdigit() and listens(host, int(port))


def haproxy_script(binary: str, settings: Settings) -> str:
    """A stand-in for HAProxy that corrects the configuration first; see `haproxy_config`. $3 is that file.

    Ray has a setting for the ingress' address, but replicas would then listen there too.
    """
    wanted = {
        "bound": f"127.0.0.1:{urlsplit(settings.serve_url).port}",
        "wanted": ",".join(ingress_addresses(settings)),
    }
    corrections = {
        "ingress": wanted if settings.listens_elsewhere else None,
        "queues": str(queues_folder(settings)),
    }
    # Isolated, and without site packages: it is there in 20 ms.
    correct = (sys.executable, "-I", "-S", haproxy_config.__file__, json.dumps(corrections))
    return (
        "#!/bin/sh\n"
        "# Called by Ray Serve as: haproxy -db -f CONFIG ...\n"
        f'{shlex.join(correct)} "$3" || exit 1\n'
        f'exec {shlex.quote(binary)} "$@"\n'
    )


def ingress_addresses(settings: Settings) -> list[str]:
    """HOST:PORT of each listener of Serve's ingress, as HAProxy writes them."""
    port = urlsplit(settings.serve_url).port
    return [f"{f'[{host}]' if ':' in host else host}:{port}" for host in listen_hosts(settings)]


def serve(settings: Settings, layout: Layout, action: str = "start") -> Part:
    """Ray Serve lives inside Ray's session; the command only starts it."""
    _, port, *_ = listen = _listen(settings.serve_url, "MILLRACE_SERVE_URL")
    return Part(
        name="serve",
        address=settings.serve_url,
        local=_is_local(settings.serve_url) and settings.ray_address is None,
        command=(
            sys.executable, "-m", "infra.local.run_serve", action, "--host", "127.0.0.1", "--port", str(port),
            "--patience-s", str(_CHILD_PATIENCE_S),
        ),
        extra={},
        # 200 with applications, 503 before the first is deployed: either way the ingress is there.
        ready=lambda: ask(f"{settings.serve_url}/-/routes")[0] in (200, 503),
        listen=listen,
        cwd=layout.state,
    )  # fmt: skip
