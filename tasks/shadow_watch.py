"""Keeps a process for each pipeline that mirrors its traffic."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from millrace.faults import fault_point
from millrace.ledger import Ledger
from millrace.logs import get_logger
from millrace.settings import Settings
from tasks.turns import each_in_turn

#: Seconds between two starts for one entry of the ledger, doubled up to the most: each costs seconds of CPU.
PAUSE_SECONDS = 5.0
MOST_PAUSE_SECONDS = 300.0
LOOK_SECONDS = 2.0


def start_shadow(settings: Settings, pipeline: str) -> subprocess.Popen[bytes]:
    """The process, a child of this one; what it logs lies beside the other parts' logs."""
    logs = settings.state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log: IO[Any]
    with fault_point("shadow.start"), (logs / f"shadow-{pipeline}.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own command; the name was a folder's before it was the ledger's
            [sys.executable, "-m", "tasks.shadow", pipeline],
            env=os.environ | {"PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@dataclass
class _Kept:
    """The process for one entry of the ledger; it knows by itself when it is of no use any more."""

    entry: int
    process: subprocess.Popen[bytes]
    started: float
    pause: float = PAUSE_SECONDS


@dataclass
class ShadowWatch:
    """A part of the reconciler."""

    settings: Settings
    ledger: Ledger
    start: Callable[[Settings, str], subprocess.Popen[bytes]] = start_shadow
    clock: Callable[[], float] = time.monotonic
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _looked: float = float("-inf")

    def tick(self) -> None:
        """See that each lives that is wanted, and none that is not.

        Raises:
            DigestError: a pipeline's rules were altered; the others were seen to.
        """
        now = self.clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        each_in_turn([entry.pipeline for entry in self.ledger.all_serving()], lambda name: self._see_to(name, now))

    def close(self) -> None:
        """End them."""
        for kept in self._kept.values():
            _end(kept.process)
        self._kept.clear()

    def _see_to(self, name: str, now: float) -> None:
        record = self.ledger.traffic(name)
        wanted = None if record is None or record.rules.shadow is None else record.entry.sequence
        if (kept := self._kept.get(name)) is not None and kept.entry != wanted:
            _end(self._kept.pop(name).process)
        if wanted is not None:
            self._keep(name, wanted, now)

    def _keep(self, name: str, entry: int, now: float) -> None:
        kept = self._kept.get(name)
        if kept is None:
            self._kept[name] = _Kept(entry, self.start(self.settings, name), now)
        elif (status := kept.process.poll()) is not None and now - kept.started >= kept.pause:
            get_logger().warning("the shadow ended: another one starts", pipeline=name, status=status)
            pause = min(2 * kept.pause, MOST_PAUSE_SECONDS)
            self._kept[name] = _Kept(entry, self.start(self.settings, name), now, pause)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
