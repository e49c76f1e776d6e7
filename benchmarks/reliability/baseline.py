"""What people have today: `emit_event`, and a deployment trigger that starts the training. The same storm.

The events are those of `storm`, drawn from the same seed. They are sent no faster than the server makes runs of them,
so that none is lost only because its queue (10,000 events) is full.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.deliveries import draw_deliveries, draw_incidents, trigger_parameter
from benchmarks.reliability.prefect_server import PrefectServer
from benchmarks.reliability.storm import SEED
from infra.local.environment import environment
from tasks.responses import EVENT

#: Events that may be on their way to a run; asked of the server every so many events.
_BACKLOG = 200
_ASKED_EVERY = 100
#: Seconds without another run after which no more is expected.
_QUIET_SECONDS = 30.0


def measure(
    *, incidents: int = 10_000, seed: int = SEED, server_kills: int = 4, process_kills: int = 1
) -> dict[str, Any]:
    """Let the storm pass, and count: `lost` incidents have no run, `double` are runs too many."""
    drawn = draw_incidents(incidents, seed)
    deliveries = draw_deliveries(drawn, seed)
    keys = {incident.key for incident in drawn}
    said: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="millrace-storm-") as folder, PrefectServer(Path(folder)) as server:
        server.register_trigger(server.register_training(), EVENT, {"incident": trigger_parameter()})
        server_deaths = _evenly(len(deliveries), server_kills)
        emitter_deaths = _evenly(len(deliveries), process_kills, shift=1)
        emitter = _emitter(server)
        try:
            for number, delivery in enumerate(deliveries):
                if number in server_deaths:
                    server.restart()
                if number in emitter_deaths:
                    emitter.kill()
                    emitter.communicate()
                    emitter = _emitter(server)
                if number % _ASKED_EVERY == 0:
                    _await_backlog(server, said["emitted"])
                said[_emit(emitter, delivery.event)] += 1
            # It sends what it still holds before it ends.
            emitter.communicate()
            _await_quiet(server)
        finally:
            emitter.kill()
            emitter.communicate()
        runs = server.runs_by_incident()
    return {
        "incidents": len(keys),
        "lost": sum(runs[key] == 0 for key in keys),
        "double": sum(max(runs[key] - 1, 0) for key in keys),
        "incidents_doubled": sum(runs[key] > 1 for key in keys),
        "malformed_run": sum(count for key, count in runs.items() if key not in keys),
        "deliveries": len(deliveries),
        "emitted": said["emitted"],
        "server_kills": server_kills,
        "process_kills": process_kills,
        "seconds": round(time.monotonic() - began, 1),
    }


def _emitter(server: PrefectServer) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.reliability.emitter"]
    env = {**os.environ, **environment(server.settings)}
    return subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _emit(emitter: subprocess.Popen[str], event: dict[str, Any]) -> str:
    assert emitter.stdin is not None
    assert emitter.stdout is not None
    emitter.stdin.write(json.dumps(event) + "\n")
    emitter.stdin.flush()
    return emitter.stdout.readline().strip()


def _await_backlog(server: PrefectServer, emitted: int) -> None:
    """Wait until the server has caught up, or makes no more runs: what is then missing is lost."""
    count, changed = server.count_runs(), time.monotonic()
    while emitted - count > _BACKLOG and time.monotonic() - changed < _QUIET_SECONDS / 5:
        time.sleep(0.1)
        if (now := server.count_runs()) != count:
            count, changed = now, time.monotonic()


def _await_quiet(server: PrefectServer) -> None:
    count, changed = server.count_runs(), time.monotonic()
    while time.monotonic() - changed < _QUIET_SECONDS:
        time.sleep(0.2)
        if (now := server.count_runs()) != count:
            count, changed = now, time.monotonic()


def _evenly(deliveries: int, kills: int, shift: int = 0) -> set[int]:
    return {deliveries * (number + 1) // (kills + 1) + shift for number in range(kills)}
