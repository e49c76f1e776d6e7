"""Finding flow runs whose process is gone, and having them go on: under their own id, steps finding what is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from millrace.errors import UnknownNameError
from millrace.ledger import Fact, Heartbeat, Ledger
from millrace.logs import get_logger
from millrace.settings import Settings
from tasks.liveness import runs_here
from tasks.prefect_api import (
    FlowRun,
    FlowState,
    flow_runs,
    flow_state,
    mark_cancelled,
    mark_crashed,
    mark_running,
    retry,
    was_cancelled,
)
from tasks.run_kinds import ABANDONED, LOCAL, RESUMED, STARTED
from tasks.turns import each_in_turn

#: Seconds without a beat after which a run is dead; longer where its process is seen to live: it may be stopped.
SILENT_SECONDS = 4.0
STUCK_SECONDS = 30.0
#: Seconds after which a run is dead that Prefect holds for started, and that has never had a heartbeat; where its
#: process is seen to live, it may still be importing what it needs. One that is PENDING has `start_seconds`.
UNBORN_SECONDS = {"RUNNING": 4.0, "CRASHED": 0.0}
#: The longest pause before a run goes on that has gone on before: what is away may need its time to come back.
MOST_PAUSE_SECONDS = 120.0
#: Seconds that a worker is given to report the end of a process itself: said after the run goes on, it would mislead.
REPORT_SECONDS = 1.5
#: How often a run may go on before it is given up: what kills it each time will kill it again.
MAX_LIVES = 30

_CRASHED_LATELY = timedelta(hours=1)


@dataclass
class Reviver:
    """Judges by what it has seen itself, on its own clock: the hosts' clocks may differ."""

    settings: Settings
    ledger: Ledger
    clock: Callable[[], float] = time.monotonic
    _beats: dict[tuple[str, int, float], tuple[int, float]] = field(default_factory=dict)
    _unborn: dict[str, float] = field(default_factory=dict)
    _noticed: dict[str, float] = field(default_factory=dict)

    def tick(self) -> None:
        """Find the dead, and have each go on or give it up."""
        heartbeats = self.ledger.heartbeats.all()
        silent = self._silent(heartbeats)
        self._noticed = {beat.run: self._noticed.get(beat.run, self.clock()) for beat in silent}
        each_in_turn(silent, self._see_to_silent)
        born = {heartbeat.run for heartbeat in heartbeats}
        crashed = flow_runs(self.settings, ["CRASHED"], datetime.now(UTC) - _CRASHED_LATELY)
        late = {run.id for run in crashed} & (born - set(self._noticed))
        turns = [partial(self._see_to_unborn, run) for run in self._never_born(crashed, born)]
        each_in_turn([*turns, *(partial(self._see_to_late_report, run) for run in late)], lambda turn: turn())

    def _see_to_silent(self, heartbeat: Heartbeat) -> None:
        # One that is stuck on this host would hold what it holds (a lock of the ledger's file) for ever.
        heartbeat.kill()
        self._see_to(heartbeat.run, heartbeat.pipeline, heartbeat)

    def _see_to_unborn(self, run: str) -> None:
        self._see_to(run, self._pipeline_of(run), None)

    def _see_to_late_report(self, run: str) -> None:
        """Of a process that another one has followed."""
        if not was_cancelled(self.settings, run):
            mark_running(self.settings, run)

    def _silent(self, heartbeats: list[Heartbeat]) -> list[Heartbeat]:
        now, silent, seen = self.clock(), [], {}
        for heartbeat in heartbeats:
            process = (heartbeat.run, heartbeat.pid, heartbeat.started)
            beat, since = self._beats.get(process, (heartbeat.beat, now))
            seen[process] = (heartbeat.beat, since if beat == heartbeat.beat else now)
            patience = STUCK_SECONDS if heartbeat.is_seen_alive else SILENT_SECONDS
            if heartbeat.is_gone or now - seen[process][1] >= patience:
                silent.append(heartbeat)
        self._beats = seen
        return silent

    def _never_born(self, crashed: list[FlowRun], born: set[str]) -> list[str]:
        now = self.clock()
        found = [*flow_runs(self.settings, ["RUNNING", "PENDING"]), *crashed]
        patience = {**UNBORN_SECONDS, "PENDING": self.settings.start_seconds}
        waiting = {run.id: patience[run.state] for run in found if run.id not in born}
        self._unborn = {run: self._unborn.get(run, now) for run in waiting}
        late = [run for run, since in self._unborn.items() if now - since >= waiting[run]]
        # A crash has been reported by who saw it; else look whether it is only slow to begin.
        doubtful = {run for run in late if waiting[run] and now - self._unborn[run] < STUCK_SECONDS}
        slow = doubtful & runs_here() if doubtful else set()
        return [run for run in late if run not in slow]

    def _see_to(self, run: str, pipeline: str, heartbeat: Heartbeat | None) -> None:
        if self.ledger.entries(None, ABANDONED, subject=run):
            self._forget(run, heartbeat)
            return
        state = self._state(run)
        if state is None or not state.has_deployment:
            self._abandon(run, pipeline, heartbeat, state, "nobody can start it again: it belongs to no deployment")
        elif state.state == "CRASHED" and was_cancelled(self.settings, run):
            self._leave_cancelled(run, heartbeat)
        elif state.state in ("RUNNING", "PENDING", "CRASHED"):
            noticed = self._noticed.get(run, float("-inf"))
            if state.state != "CRASHED" and self.clock() - noticed < REPORT_SECONDS:
                return
            lives = len(self.ledger.entries(None, RESUMED, subject=run))
            if lives and self.clock() - max(noticed, self._unborn.get(run, noticed)) < min(
                2.0**lives, MOST_PAUSE_SECONDS
            ):
                return
            if lives >= MAX_LIVES:
                self._abandon(run, pipeline, heartbeat, state, f"its process was lost {lives + 1} times")
            else:
                self._go_on(run, pipeline, heartbeat, lives)
        elif state.state != "SCHEDULED":
            # It ended, or a person cancelled it, while its process was lost.
            self._forget(run, heartbeat)

    def _leave_cancelled(self, run: str, heartbeat: Heartbeat | None) -> None:
        """Its worker will say that it was cancelled. If that is gone too, somebody must."""
        if heartbeat is not None:
            self.ledger.heartbeats.end(heartbeat)
        if self.clock() - self._unborn.get(run, self.clock()) >= STUCK_SECONDS:
            mark_cancelled(self.settings, run)

    def _state(self, run: str) -> FlowState | None:
        if run.startswith(LOCAL):
            return None
        try:
            return flow_state(self.settings, run)
        except UnknownNameError:
            return None

    def _go_on(self, run: str, pipeline: str, heartbeat: Heartbeat | None, lives: int) -> None:
        get_logger().warning("a flow run lost its process: it goes on", run=run, pipeline=pipeline, lives=lives + 1)
        self.ledger.append(Fact(pipeline, RESUMED, run, {"life": lives + 2}, once=f"{run}:{lives + 2}"))
        self._forget(run, heartbeat)
        retry(self.settings, run)

    def _abandon(self, run: str, pipeline: str, heartbeat: Heartbeat | None, state: FlowState | None, why: str) -> None:
        get_logger().error("a flow run is given up", run=run, pipeline=pipeline, why=why)
        self.ledger.append(Fact(pipeline, ABANDONED, run, {"why": why}, once=run))
        for incident in self.ledger.outbox.of(pipeline):
            if incident.response == run and incident.outcome is None:
                self.ledger.outbox.close(incident.key, "failed")
        self._forget(run, heartbeat)
        if state is not None and not state.is_final:
            mark_crashed(self.settings, run, why)

    def _forget(self, run: str, heartbeat: Heartbeat | None) -> None:
        if heartbeat is not None:
            self.ledger.heartbeats.end(heartbeat)
        self._unborn.pop(run, None)

    def _pipeline_of(self, run: str) -> str:
        started = self.ledger.entries(None, STARTED, subject=run)
        return started[0].pipeline if started else ""
