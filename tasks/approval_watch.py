"""Has flow runs go on that wait for an answer which is there, or which nobody gave in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from millrace.approvals.requests import may_go_on
from millrace.ledger import Ledger
from millrace.logs import get_logger
from millrace.settings import Settings
from tasks.prefect_api import FlowRun, flow_runs, resume
from tasks.turns import each_in_turn

#: Seconds between two looks.
LOOK_SECONDS = 2.0


@dataclass
class ApprovalWatch:
    """Who answers resumes the flow run himself; this sees to those that he could not."""

    settings: Settings
    ledger: Ledger
    clock: Callable[[], float] = time.monotonic
    _looked: float = float("-inf")

    def tick(self) -> None:
        """Look at each run that is suspended."""
        if self.clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self.clock()
        each_in_turn(flow_runs(self.settings, ["PAUSED"]), self._look)

    def _look(self, run: FlowRun) -> None:
        if may_go_on(self.ledger, run.id):
            get_logger().info("answered, or over: it goes on", run=run.id)
            resume(self.settings, run.id)
