"""A prediction service that listens on loopback, in a thread behind uvicorn: HTTP as callers speak it, without Ray."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from infra.local.ports import free_ports
from ray_jobs.serve.service import PredictionService
from tests.waiting import until

_READY_SECONDS = 30.0


@contextmanager
def listening(service: PredictionService) -> Iterator[int]:
    """The port of 127.0.0.1 at which `service` answers, mounted where a pipeline's service is, at `/v1/NAME`."""
    (port,) = free_ports(1)
    app = Starlette(routes=[Mount(f"/v1/{service.pipeline.name}", service)])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "a service on loopback", _READY_SECONDS)
        yield port
    finally:
        server.should_exit = True
        thread.join()
