"""Child process: the app of Prefect's or MLflow's server behind our door, on the addresses that the settings name."""

from __future__ import annotations

import argparse
import socket
import sys
from typing import cast
from urllib.parse import urlsplit

from infra.local.door import App, Door
from infra.local.doors import listen_hosts
from infra.local.health import LOOPBACK_HOSTS
from infra.local.patience import Patient
from millrace.settings import Settings, load_settings

_SHUTDOWN_SECONDS = 3


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["prefect", "mlflow"])
    part = parser.parse_args().part
    settings = load_settings()

    import uvicorn

    app = behind_door(part, settings)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_SHUTDOWN_SECONDS)
    server = uvicorn.Server(config)
    server.run(sockets=[_bound(host, _port(part, settings)) for host in listen_hosts(settings)])
    return 0 if server.started else 3


def behind_door(part: str, settings: Settings) -> Door:
    """The part's app with its door. Prefect asks for credentials by itself, so that its UI can offer a login."""
    port = _port(part, settings)
    # A browser leaves HTTP's own port out.
    hosts = frozenset(host if port == 80 else f"{host}:{port}" for host in LOOPBACK_HOSTS)
    if part == "prefect":
        return Door(Patient(_prefect()), hosts, any_host=settings.listens_elsewhere)
    return Door(
        _mlflow(),
        hosts,
        any_host=settings.listens_elsewhere,
        authorization=settings.mlflow_headers.get("authorization"),
        open_paths=frozenset({"/health"}),
    )


def _prefect() -> App:
    from prefect.server.api.server import create_app
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    from infra.local.prefect_database import use_patient_sqlite

    use_patient_sqlite(PREFECT_API_DATABASE_CONNECTION_URL.value())
    return cast(App, create_app())


def _mlflow() -> App:
    from mlflow.server.fastapi_app import app

    return cast(App, app)


def _port(part: str, settings: Settings) -> int:
    port = urlsplit(settings.prefect_url if part == "prefect" else settings.mlflow_url).port
    if port is None:
        raise ValueError(f"the URL of {part} names no port")
    return port


def _bound(host: str, port: int) -> socket.socket:
    """A socket that uvicorn listens on once the app has started: until then nobody is kept waiting."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    return bound


if __name__ == "__main__":
    sys.exit(main())
