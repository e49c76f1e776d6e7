"""The storm: events about incidents come twice, late, out of order and malformed, while servers and processes die.

What answers is what answers in production: the ledger, `find_incident` and `start_training` as the flow `respond` runs
them, the reconciler's `Responder`, a real Prefect server. Only the training runs are not executed: no worker takes
them, they are counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.deliveries import Delivery, draw_deliveries, draw_incidents, respond_parameter
from benchmarks.reliability.prefect_server import PrefectServer
from infra.local.environment import environment
from millrace.errors import MillraceError
from millrace.ledger import Incident, Ledger
from millrace.settings import Settings
from tasks.reconciler import TICK_SECONDS, Responder

NUM_RESPONDERS = 3
SEED = 20_260_101
#: Events that were in the server's memory when it was killed: nobody hears of them again.
_LOST_WITH_SERVER = 20
_OPENED_AT_ONCE = 50
_CLOSING_SECONDS = 1800.0


def measure(
    *, incidents: int = 10_000, seed: int = SEED, server_kills: int = 4, process_kills: int = 6
) -> dict[str, Any]:
    """Let the storm pass, and count: `lost` incidents have no run or no answer, `double` are runs too many."""
    with tempfile.TemporaryDirectory(prefix="millrace-storm-") as folder, PrefectServer(Path(folder)) as server:
        server.register_training()
        drawn = draw_incidents(incidents, seed)
        storm = _Storm(server, Ledger(server.settings.ledger), drawn, draw_deliveries(drawn, seed))
        began = time.monotonic()
        storm.rage(server_kills, process_kills)
        raged = time.monotonic()
        storm.await_calm()
        ended = time.monotonic()
        return {
            **_judge(server, storm.ledger, drawn),
            "deliveries": len(storm.deliveries),
            "malformed": sum(delivery.is_malformed for delivery in storm.deliveries),
            "malformed_refused": storm.refused,
            "events_lost": storm.said["lost"] + storm.said["away"],
            "server_kills": server_kills,
            "process_kills": process_kills,
            "seconds": round(ended - began, 1),
            "seconds_to_close": round(ended - raged, 1),
            "answers_per_second": round(incidents / (ended - began), 1),
        }


def _judge(server: PrefectServer, ledger: Ledger, drawn: Sequence[Incident]) -> dict[str, int]:
    """Hold the ledger against the server: every incident one run, and that run its answer."""
    runs = server.runs_by_incident()
    keys = {incident.key for incident in drawn}
    pipelines = {incident.pipeline for incident in drawn}
    answered = {found.key for name in pipelines for found in ledger.outbox.of(name) if found.response is not None}
    return {
        "incidents": len(keys),
        "lost": sum(runs[key] == 0 or key not in answered for key in keys),
        "double": sum(runs.values()) - sum(runs[key] > 0 for key in keys),
        "opened_in_ledger": sum(len(ledger.outbox.of(name)) for name in pipelines),
    }


class _Responders:
    """A child process that answers, replaced when it is killed."""

    def __init__(self, settings: Settings) -> None:
        self._env = environment(settings)
        self._process = self._start()

    def ask(self, parameter: str) -> str:
        """What the process says of it; `lost` when it was killed over it."""
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(parameter) + "\n")
            self._process.stdin.flush()
            if said := self._process.stdout.readline().strip():
                return said
        except BrokenPipeError:
            pass
        self.close()
        self._process = self._start()
        return "lost"

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Let it end, and read nothing more of it."""
        self._process.kill()
        self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        import os

        command = [sys.executable, "-m", "benchmarks.reliability.responder"]
        return subprocess.Popen(
            command, env={**os.environ, **self._env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )


@dataclass
class _Storm:
    server: PrefectServer
    ledger: Ledger
    incidents: Sequence[Incident]
    deliveries: Sequence[Delivery]
    said: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    _taken: int = 0
    _opened: int = 0
    _skipped_until: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _up: threading.Event = field(default_factory=threading.Event)

    def rage(self, server_kills: int, process_kills: int) -> None:
        """Deliver everything, the reconciler beside it, with kills evenly on the way."""
        self._up.set()
        responders = [_Responders(self.server.settings) for _ in range(NUM_RESPONDERS)]
        over = threading.Event()
        reconciling = threading.Thread(target=self._reconcile, args=(over,))
        threads = [threading.Thread(target=self._deliver, args=(responder,)) for responder in responders]
        for thread in (reconciling, *threads):
            thread.start()
        try:
            for at, kill_server in _schedule(len(self.deliveries), server_kills, process_kills):
                while self._taken < at and any(thread.is_alive() for thread in threads):
                    time.sleep(0.005)
                if kill_server:
                    self._kill_server()
                else:
                    responders[at % NUM_RESPONDERS].kill()
            for thread in threads:
                thread.join()
        finally:
            over.set()
            reconciling.join()
            for responder in responders:
                responder.close()

    def await_calm(self) -> None:
        """Have the reconciler close what the storm left open.

        Raises:
            TimeoutError: it does not.
        """
        deadline = time.monotonic() + _CLOSING_SECONDS
        responder = Responder(self.server.settings, self.ledger)
        while self.ledger.outbox.unanswered():
            if time.monotonic() > deadline:
                raise TimeoutError("the reconciler does not close the gaps")
            responder.tick()
            time.sleep(TICK_SECONDS / 10)

    def _reconcile(self, over: threading.Event) -> None:
        responder = Responder(self.server.settings, self.ledger)
        while not over.wait(TICK_SECONDS):
            try:
                responder.tick()
            except MillraceError:
                self.said["tick failed"] += 1

    def _deliver(self, responder: _Responders) -> None:
        while (delivery := self._take()) is not None:
            self._up.wait()
            parameter = respond_parameter(delivery.event)
            said = "refused" if parameter is None else responder.ask(parameter)
            with self._lock:
                self.said[said] += 1
                self.refused += delivery.is_malformed and said == "refused"

    def _take(self) -> Delivery | None:
        """The next event; its incident is in the ledger before anybody is told."""
        with self._lock:
            while self._taken < len(self.deliveries):
                delivery = self.deliveries[self._taken]
                self._taken += 1
                if delivery.opened > self._opened:
                    self._open(delivery.opened)
                if self._taken > self._skipped_until or delivery.is_malformed:
                    return delivery
                self.said["lost"] += 1
            return None

    def _open(self, needed: int) -> None:
        until = min(max(needed, self._opened + _OPENED_AT_ONCE), len(self.incidents))
        self.ledger.outbox.open(*self.incidents[self._opened : until])
        self._opened = until

    def _kill_server(self) -> None:
        self.server.kill()
        self._up.clear()
        with self._lock:
            self._skipped_until = self._taken + _LOST_WITH_SERVER
        self.server.restart()
        self._up.set()


def _schedule(deliveries: int, server_kills: int, process_kills: int) -> list[tuple[int, bool]]:
    """After how many deliveries what is killed: servers (True) and processes."""
    servers = [(deliveries * (number + 1) // (server_kills + 1), True) for number in range(server_kills)]
    processes = [(deliveries * (number + 1) // (process_kills + 2) + 1, False) for number in range(process_kills)]
    return sorted(servers + processes)
