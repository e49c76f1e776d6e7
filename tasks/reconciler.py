"""Closes every gap between the ledger and the world: `python -m tasks.reconciler`, a part of the stack.

It answers incidents whose event was lost, starts the flow of each rollout that has begun, has flow runs go on whose
process is gone or whose question was answered, has the versions serve that the ledger names, asks for a rollback when a
new version breaches its guard, and keeps the standby that does it and the processes that mirror traffic. All of it may
be done twice without harm, so it may be killed anywhere, and two of them may run.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from millrace import logs
from millrace.errors import MillraceError, ServiceError
from millrace.ledger import Ledger
from millrace.logs import get_logger
from millrace.settings import Settings, load_settings
from tasks.approval_watch import ApprovalWatch
from tasks.guard_watch import GuardWatch
from tasks.responses import start_training
from tasks.reviving import Reviver
from tasks.rollout_watch import RolloutWatch
from tasks.serving_watch import ServingWatch
from tasks.shadow_watch import ShadowWatch
from tasks.standby_watch import StandbyWatch

#: Between two looks of the part that is in the greatest hurry; the others look each second.
TICK_SECONDS = 0.25
#: Below the state folder's `run`: touched at each tick, for whoever asks whether the reconciler lives.
TICK = "reconciler.tick"
#: An incident that its event has not brought an answer to for so long is answered from here.
EVENT_SECONDS = 1.0

_OTHERS_SECONDS = 1.0

_MOST_AT_ONCE = 100


@dataclass
class Responder:
    """Answers incidents that nobody has answered."""

    settings: Settings
    ledger: Ledger
    clock: Callable[[], float] = time.monotonic
    _since: dict[str, float] = field(default_factory=dict)

    def tick(self) -> None:
        unanswered = self.ledger.outbox.unanswered()
        keys = {incident.key for incident in unanswered}
        self._since = {key: since for key, since in self._since.items() if key in keys}
        due = [
            incident
            for incident in unanswered
            if self.clock() - self._since.setdefault(incident.key, self.clock()) >= EVENT_SECONDS
        ]
        for incident in due[:_MOST_AT_ONCE]:
            try:
                start_training(self.settings, self.ledger, incident)
            except ServiceError:
                raise  # it is away: the others would fare no better
            except MillraceError as error:
                # The others must not wait for one that cannot be answered; it is tried again after them.
                self._since[incident.key] = self.clock()
                get_logger().error("an incident cannot be answered", incident=incident.key, error=str(error))


def run(settings: Settings, stopped: threading.Event) -> None:
    """Reconcile until `stopped`; what fails is logged and tried again."""
    ledger = Ledger(settings.ledger)
    responder = Responder(settings, ledger)
    standby, shadows = StandbyWatch(settings, ledger), ShadowWatch(settings, ledger)
    others: list[Any] = [
        # First: the parts after it ask services that may be slow.
        GuardWatch(settings, ledger),
        standby,
        Reviver(settings, ledger),
        RolloutWatch(settings, ledger),
        ApprovalWatch(settings, ledger),
        ServingWatch(settings, ledger),
        shadows,
    ]
    tick = settings.state / "run" / TICK
    tick.parent.mkdir(parents=True, exist_ok=True)
    looked = float("-inf")
    while not stopped.wait(TICK_SECONDS):
        tick.touch()
        _tick(responder)
        if time.monotonic() - looked >= _OTHERS_SECONDS:
            looked = time.monotonic()
            for part in others:
                _tick(part)
    standby.close()
    shadows.close()


def _tick(part: Any) -> None:
    """What one part cannot do must not keep the others from what they can."""
    try:
        part.tick()
    except MillraceError as error:
        get_logger().warning("will be tried again", part=type(part).__name__, error=str(error))
    except Exception:  # noqa: BLE001 - told with its traceback, and tried again
        get_logger().exception("a defect; will be tried again", part=type(part).__name__)


def main() -> None:
    """The process: ends on SIGTERM or SIGINT."""
    settings = load_settings()
    logs.configure(settings.log_level, json_lines=settings.log_json)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    get_logger().info("reconciling")
    run(settings, stopped)


if __name__ == "__main__":
    main()
