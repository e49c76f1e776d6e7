"""Keeps a standby: starts one, and another when it ended or does not answer for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from millrace.faults import fault_point
from millrace.ledger import Ledger
from millrace.logs import get_logger
from millrace.settings import Settings
from tasks.rollback_requests import READY

#: Seconds between two starts, doubled up to the most while none becomes ready, as each costs seconds of CPU; seconds
#: until one must be ready, and seconds for which it may then be silent: a rollback is one silence.
PAUSE_SECONDS = 5.0
MOST_PAUSE_SECONDS = 60.0
START_SECONDS = 120.0
SILENT_SECONDS = 30.0


def start_standby(settings: Settings) -> subprocess.Popen[bytes]:
    """The process, a child of this one; what it logs lies beside the other parts' logs."""
    logs = settings.state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log: IO[Any]
    with fault_point("standby.start"), (logs / "standby.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tasks.standby"],
            # It runs no flow, and Prefect would warn of each line that it cannot keep.
            env=os.environ | {"PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@dataclass
class StandbyWatch:
    """A part of the reconciler. While nothing serves none is kept; one that is missing costs seconds, no rollback."""

    settings: Settings
    ledger: Ledger
    start: Callable[[Settings], subprocess.Popen[bytes]] = start_standby
    clock: Callable[[], float] = time.monotonic
    _process: subprocess.Popen[bytes] | None = None
    _started: float = float("-inf")
    _heard: float = float("-inf")
    _mark: float = 0.0
    _pause: float = PAUSE_SECONDS

    def tick(self) -> None:
        """See that it lives."""
        now = self.clock()
        if self._process is not None and self._process.poll() is not None:
            get_logger().warning("the standby ended", status=self._process.returncode)
            self._process = None
        if self._process is None:
            if now - self._started >= self._pause and self.ledger.all_serving():
                if self._started > float("-inf"):
                    self._pause = min(2 * self._pause, MOST_PAUSE_SECONDS)
                self._mark = self._read_mark()
                self._process, self._started, self._heard = self.start(self.settings), now, float("-inf")
            return
        mark = self._read_mark()
        if mark != self._mark:
            self._mark, self._heard, self._pause = mark, now, PAUSE_SECONDS
        patience = START_SECONDS if self._heard == float("-inf") else SILENT_SECONDS
        if now - max(self._heard, self._started) >= patience:
            get_logger().warning("the standby is silent: another one starts")
            self.close()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _read_mark(self) -> float:
        path = self.settings.state / "run" / READY
        return path.stat().st_mtime if path.exists() else 0.0
