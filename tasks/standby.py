"""The standby: a process that holds everything a rollback needs, so that one starts at once: `python -m tasks.standby`.

Other changes of what serves go by it too, as a person waits for them.

Importing Ray, Serve and the rest takes seconds of CPU, many more on a busy machine, which is when somebody rolls back.
It is a driver of the Ray cluster that does nothing until the ledger has a request. The reconciler starts it, and starts
it anew whenever it ends: so it ends by itself when anything about it is in doubt.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from millrace import logs
from millrace.errors import MillraceError
from millrace.ledger import Ledger
from millrace.logs import get_logger
from millrace.settings import Settings, load_settings
from ray_jobs.cluster import connect
from ray_jobs.serve.deploy import serving
from tasks import rollback, traffic
from tasks.carry_out import is_passing
from tasks.registry import Registry
from tasks.rollback_requests import GUARD, READY, Request, RollbackRequest, end, pending
from tasks.traffic_requests import TrafficRequest

POLL_SECONDS = 0.1
#: Seconds between two questions to Serve: by them the connection is known to live.
ASK_SECONDS = 2.0
#: Seconds until a request is tried again that a part of the stack kept from its end.
PAUSE_SECONDS = 2.0


def perform(request: Request) -> object:
    """Do what is asked for, whatever it is."""
    match request:
        case RollbackRequest():
            return rollback.perform(request)
        case TrafficRequest():
            return traffic.perform(request)
    raise AssertionError(f"nobody knows how to do {request}")


@dataclass
class Standby:
    """Acts on requests, one after the other."""

    settings: Settings
    ledger: Ledger
    act: Callable[[Request], object] = perform
    clock: Callable[[], float] = time.monotonic
    _not_before: dict[str, float] = field(default_factory=dict)

    def tick(self) -> None:
        """Act on what was asked for.

        Raises:
            MillraceError: the ledger is away, or another life of this process has taken over.
        """
        for request in pending(self.ledger, RollbackRequest, TrafficRequest):
            if self.clock() < self._not_before.get(request.id, float("-inf")):
                continue
            told = {"pipeline": request.pipeline, "requested_by": request.requested_by}
            get_logger().warning(request.requested.replace("_", " "), **told)
            try:
                self.act(request)
            except MillraceError as error:
                get_logger().error("not done", pipeline=request.pipeline, error=str(error))
                if not is_passing(error):
                    continue
                if request.requested_by != GUARD:
                    # A person is told, and asks again.
                    end(self.ledger, request, error)
                self._not_before[request.id] = self.clock() + PAUSE_SECONDS


def warm(settings: Settings, ledger: Ledger) -> None:
    """Do once what is slow the first time: libraries that are imported where they are used, MLflow's client."""
    importlib.import_module("ray_jobs.serve.app")
    for entry in ledger.all_serving():
        try:
            Registry(settings).version(entry.pipeline, entry.subject)
        except MillraceError as error:
            get_logger().warning("not warm", pipeline=entry.pipeline, error=str(error))


def main() -> None:
    """The process: ends with its parent, and when the cluster is away."""
    settings = load_settings()
    logs.configure(settings.log_level, json_lines=settings.log_json)
    parent = os.getppid()
    ready = settings.state / "run" / READY
    connect(settings)
    standby = Standby(settings, Ledger(settings.ledger))
    warm(settings, standby.ledger)
    asked = float("-inf")
    while os.getppid() == parent:
        if time.monotonic() - asked >= ASK_SECONDS:
            serving(settings, "")
            asked = time.monotonic()
            ready.touch()
        standby.tick()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
