"""From an incident's commit in the ledger to the first line of the flow that answers it, on the embedded stack.

One clock: the ledger's commit is timed here, the flow run's states by the process that enters them, on this machine.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from benchmarks.reliability.api import Api
from millrace.ledger import Incident, Ledger
from millrace.settings import Settings
from millrace.window import Window
from tasks.responses import send_event

GOALS = {"p50_seconds": 1.0, "p99_seconds": 3.0}
#: No pipeline of this name exists: the trainings that are started end by themselves, and are kept from starting here.
_PIPELINE = "latency_probe"
_MOST_SECONDS = 60.0


def measure(settings: Settings, *, count: int = 100) -> dict[str, Any]:
    """Open `count` incidents one after another; how long until `respond` runs, and where that time goes.

    The stack must be up with its deployments registered. The trainings that answer are cancelled, not run.
    """
    ledger = Ledger(settings.ledger)
    start = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=time.time_ns() % 10_000)
    version = f"probe-{uuid.uuid4().hex[:8]}"
    seconds, stages = [], []
    with Api(settings) as api, _no_trainings(api):
        for number in range(count):
            window = Window(start + timedelta(hours=number), start + timedelta(hours=number + 1))
            incident = Incident(_PIPELINE, version, "quality", window, {"reasons": ["measured"]})
            ledger.outbox.open(incident)
            committed = time.time()
            send_event(settings, incident)
            sent = time.time()
            entered = _await_running(api, incident.key)
            seconds.append(entered["RUNNING"] - committed)
            stages.append(
                {
                    "send": sent - committed,
                    "trigger": entered["SCHEDULED"] - sent,
                    "poll": entered["PENDING"] - entered["SCHEDULED"],
                    "start": entered["RUNNING"] - entered["PENDING"],
                }
            )
    return {
        "count": count,
        "p50_seconds": round(float(np.quantile(seconds, 0.5)), 3),
        "p99_seconds": round(float(np.quantile(seconds, 0.99)), 3),
        "stages_p50_seconds": {
            name: round(float(np.quantile([stage[name] for stage in stages], 0.5)), 3) for name in stages[0]
        },
    }


def _await_running(api: Api, key: str) -> dict[str, float]:
    """When the run of `respond` for this incident entered each of its states, in seconds of this machine's clock.

    Raises:
        TimeoutError: it does not run.
    """
    wanted = {"flows": {"name": {"any_": ["respond"]}}, "sort": "START_TIME_DESC", "limit": 5}
    deadline = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < deadline:
        for run in api.post("/flow_runs/filter", wanted):
            if run["parameters"].get("incident") == key and run["state_type"] == "COMPLETED":
                states = api.get("/flow_run_states/", flow_run_id=run["id"])
                first: dict[str, float] = {}
                for state in sorted(states, key=lambda state: str(state["timestamp"])):
                    first.setdefault(state["type"], datetime.fromisoformat(state["timestamp"]).timestamp())
                return first
        # Asked seldom: the server that is asked is the one that is measured.
        time.sleep(0.25)
    raise TimeoutError(f"no run of respond for {key} within {_MOST_SECONDS:.0f} s")


@contextmanager
def _no_trainings(api: Api) -> Iterator[None]:
    """Trainings go to a work queue that is paused meanwhile, and are deleted in the end."""
    deployment = api.get("/deployments/name/training/training")
    pool, queue = deployment["work_pool_name"], f"probe-{uuid.uuid4().hex[:8]}"
    api.post(f"/work_pools/{pool}/queues", {"name": queue, "is_paused": True})
    api.patch(f"/deployments/{deployment['id']}", {"work_queue_name": queue})
    try:
        yield
    finally:
        api.patch(f"/deployments/{deployment['id']}", {"work_queue_name": deployment["work_queue_name"]})
        wanted = {"work_pool_queues": {"name": {"any_": [queue]}}, "limit": 200}
        while found := api.post("/flow_runs/filter", wanted):
            for run in found:
                api.delete(f"/flow_runs/{run['id']}")
        api.delete(f"/work_pools/{pool}/queues/{queue}")
