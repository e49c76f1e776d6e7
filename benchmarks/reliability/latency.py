"""From an incident's commit in the ledger to the first line of the flow that answers it, on the embedded stack.

One clock: the ledger's commit is timed here, the flow run's states by the process that enters them, on this machine.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import psutil

from benchmarks.reliability.api import Api
from infra.local.layout import Layout
from infra.local.processes import read_record
from millrace.ledger import Incident, Ledger
from millrace.settings import Settings
from millrace.window import Window
from tasks.responses import send_event
from tests.waiting import until

GOALS = {"p50_seconds": 1.0, "p99_seconds": 3.0}
#: No pipeline of this name exists: the trainings that are started fail at once.
_PIPELINE = "latency_probe"
_MOST_SECONDS = 60.0


def measure(settings: Settings, *, count: int = 100) -> dict[str, Any]:
    """Open `count` incidents one after another; how long until a flow run that answers runs, and where that time goes.

    That is `respond`, which the event starts, or the training itself, when the reconciler was faster. The stack must be
    up with its deployments registered. The trainings fail at once, and are waited for: one incident at a time.
    """
    ledger = Ledger(settings.ledger)
    start = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(days=time.time_ns() % 10_000)
    version = f"probe-{uuid.uuid4().hex[:8]}"
    ways = []
    with Api(settings) as api:
        for number in range(count):
            window = Window(start + timedelta(hours=number), start + timedelta(hours=number + 1))
            incident = Incident(_PIPELINE, version, "quality", window, {"reasons": ["measured"]})
            ledger.outbox.open(incident)
            committed = time.time()
            send_event(settings, incident)
            sent = time.time()
            flow, entered = _await_answer(api, incident.key)
            until(lambda: not _flow_processes(settings), "the end of the flow runs' processes")
            ways.append(
                {
                    "seconds": entered["RUNNING"] - committed,
                    "send": sent - committed,
                    "trigger": entered["SCHEDULED"] - sent,
                    "poll": entered["PENDING"] - entered["SCHEDULED"],
                    "start": entered["RUNNING"] - entered["PENDING"],
                    "by_reconciler": float(flow == "training"),
                }
            )
    seconds = [way.pop("seconds") for way in ways]
    slowest = int(np.argmax(seconds))
    return {
        "count": count,
        "p50_seconds": round(float(np.quantile(seconds, 0.5)), 3),
        "p99_seconds": round(float(np.quantile(seconds, 0.99)), 3),
        "stages_p50_seconds": {
            name: round(float(np.quantile([way[name] for way in ways], 0.5)), 3)
            for name in ("send", "trigger", "poll", "start")
        },
        "answered_by_reconciler": int(sum(way["by_reconciler"] for way in ways)),
        "slowest": {"seconds": round(seconds[slowest], 3)} | {k: round(v, 3) for k, v in ways[slowest].items()},
    }


def _await_answer(api: Api, key: str) -> tuple[str, dict[str, float]]:
    """The flow whose run for this incident ran first, and when that run entered each of its states.

    In seconds of this machine's clock, once the training that answers has ended.

    Raises:
        TimeoutError: it does not run.
    """
    deadline = time.monotonic() + _MOST_SECONDS
    states: dict[str, list[str]] = {}
    while time.monotonic() < deadline:
        runs = {}
        for flow in ("respond", "training"):
            wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 5}
            found = [run for run in api.post("/flow_runs/filter", wanted) if run["parameters"].get("incident") == key]
            states[flow] = [run["state_type"] for run in found]
            if found and found[0]["state_type"] in ("COMPLETED", "FAILED"):
                runs[flow] = _entered(api, found[0]["id"])
        if "training" in runs:
            return min(runs.items(), key=lambda item: item[1]["RUNNING"])
        # Asked seldom: the server that is asked is the one that is measured.
        time.sleep(0.25)
    raise TimeoutError(f"{key} has no answer within {_MOST_SECONDS:.0f} s; its runs are {states}")


def _flow_processes(settings: Settings) -> list[psutil.Process]:
    """The worker's stand-ins for flow runs: they are there a while after Prefect says that a run has ended."""
    worker = read_record(Layout(settings.state).run, "worker")
    assert worker is not None, "the stack has no worker"
    children = psutil.Process(worker.pid).children(recursive=True)
    return [child for child in children if _command(child)[-2:] == ["-m", "infra.local.warm"]]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _entered(api: Api, run: str) -> dict[str, float]:
    first: dict[str, float] = {}
    for state in sorted(api.get("/flow_run_states/", flow_run_id=run), key=lambda state: str(state["timestamp"])):
        first.setdefault(state["type"], datetime.fromisoformat(state["timestamp"]).timestamp())
    return first
