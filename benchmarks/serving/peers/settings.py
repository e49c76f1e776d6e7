"""Settings that peers read from files and variables, written into a folder that is deleted afterwards."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from infra.local.parts import haproxy_script
from infra.local.ports import free_ports
from infra.local.start import haproxy_binary
from millrace.settings import Settings


def write_mlserver(folder: Path, port: int, implementation: str, name: str = "model", **about: Any) -> None:
    """MLServer's two files; `about` is more of what the model's settings say.

    It answers in one process, as the others do, instead of handing requests to a second.
    """
    grpc, metrics = free_ports(2)
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(server))
    model = {"name": name, "implementation": implementation, **about}
    (folder / "model-settings.json").write_text(json.dumps(model))


def ray_default(folder: Path) -> dict[str, str]:
    """Ray Serve as it comes: its own proxy, user code in a thread. On loopback, with a token."""
    token = folder / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # GCS, raylet and workers then listen on loopback only, despite its name.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray makes its workers nicer than all else. Millrace's are not: neither are these, or the load would win.
        "RAY_worker_niceness": "0",
    }


def ray_haproxy(folder: Path) -> dict[str, str]:
    """The two modes that make it ten times as fast: HAProxy before the replicas, and user code on the main loop."""
    script, stats, metrics = folder / "haproxy", *free_ports(2)
    script.write_text(haproxy_script(haproxy_binary(), Settings()))
    script.chmod(0o700)
    return {
        **ray_default(folder),
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Nothing of these is about speed: where files and ports are, so that two can run side by side.
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        # As Millrace's: by default each request's log line goes to a port that nobody listens on.
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "log.sock"),
    }
