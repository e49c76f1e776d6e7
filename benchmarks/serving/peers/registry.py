"""The peers: what each needs, how it is started, and how it is asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.dialects import RECORDS, ROWS, TENSORS, Dialect
from benchmarks.serving.peers import settings
from benchmarks.serving.peers.environment import PeerError, peer_python
from infra.local.ports import free_ports

_SERVERS = "benchmarks.serving.peers.servers"
_DEBIAN_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Place:
    """Where a peer runs: its interpreter, its port of loopback, and a folder that is deleted afterwards."""

    python: Path
    port: int
    scratch: Path

    def module(self, name: str, *arguments: object) -> list[str]:
        return [str(self.python), "-m", name, *map(str, arguments)]

    def script(self, name: str, *arguments: object) -> list[str]:
        """A command that a package of the environment brings."""
        return [str(self.python.with_name(name)), *map(str, arguments)]


@dataclass(frozen=True)
class Peer:
    """A server of the model. `prepare` is a command that ends before `command` starts."""

    name: str
    command: Callable[[Place], list[str]]
    dialect: Dialect = ROWS
    path: str = "/predict"
    prepare: Callable[[Place], list[str]] | None = None
    environment: Callable[[Place], Mapping[str, str]] = field(default=lambda _: {})
    #: The interpreter whose `python` is to be used; none: an environment of its own, made by the running one.
    python: Callable[[str], Path] = peer_python


def running_python(_: str) -> Path:
    """This project's own environment: it has the very Ray that Millrace serves with."""
    return Path(sys.executable)


def debian_python(name: str) -> Path:
    """An environment made by the system's interpreter: Triton's Python back end links to the library of that one."""
    if not os.access(_DEBIAN_PYTHON, os.X_OK):
        raise PeerError(f"{name} needs the system's own Python at {_DEBIAN_PYTHON}, with its shared library")
    return peer_python(name, python=_DEBIAN_PYTHON)


def _mlserver(place: Place) -> list[str]:
    settings.write_mlserver(place.scratch, place.port, f"{_SERVERS}.mlserver_runtime.DelayRuntime")
    return place.script("mlserver", "start", place.scratch)


def _mlflow(place: Place) -> list[str]:
    options = ("--host", "127.0.0.1", "--port", place.port, "--env-manager", "local", "--workers", "1")
    return place.script("mlflow", "models", "serve", "--model-uri", place.scratch / "model", *options)


def _bentoml(place: Place) -> list[str]:
    options = ("--host", "127.0.0.1", "--port", place.port)
    return place.script("bentoml", "serve", f"{_SERVERS}.bentoml_service:DelayService", *options)


def _ray(place: Place) -> list[str]:
    return place.module(f"{_SERVERS}.ray_app", place.port, place.scratch)


#: The unit of all shares.
FASTAPI = Peer("fastapi", lambda place: place.module(f"{_SERVERS}.fastapi_app", place.port))
#: What Millrace's own share is taken of.
BARE_RAY = Peer(
    "ray_haproxy", _ray, python=running_python, environment=lambda place: settings.ray_haproxy(place.scratch)
)

#: Frameworks that one would serve with instead; Millrace should be ahead of each.
SERVERS = (
    Peer("mlserver", _mlserver, TENSORS, "/v2/models/model/infer"),
    Peer("litserve", lambda place: place.module(f"{_SERVERS}.litserve_app", place.port)),
    Peer("bentoml", _bentoml),
    Peer(
        "mlflow",
        _mlflow,
        RECORDS,
        "/invocations",
        prepare=lambda place: place.module(f"{_SERVERS}.mlflow_model", place.scratch / "model"),
    ),
)

PEERS: tuple[Peer, ...] = (
    Peer("ray_default", _ray, python=running_python, environment=lambda place: settings.ray_default(place.scratch)),
    *SERVERS,
    Peer(
        "triton",
        lambda place: place.module(f"{_SERVERS}.triton_app", place.port, *free_ports(2)),
        TENSORS,
        "/v2/models/model/infer",
        python=debian_python,
    ),
    FASTAPI,
    BARE_RAY,
)
