"""`millrace rollback`, and what else the standby does: ask, and see that it is done.

Light to import: it is for emergencies, and needs no Prefect.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from flows.person import person
from flows.progress import Progress
from millrace.errors import MillraceError
from millrace.ledger import Ledger
from millrace.logs import get_logger
from millrace.settings import Settings
from millrace.spec.load import require_served
from tasks.rollback_requests import Request, RollbackRequest, end, is_worked_on, new_id, outcome_of

#: Seconds that the standby is given to begin, and to end: then this process does it itself.
BEGIN_SECONDS = 2.0
END_SECONDS = 20.0

_POLL_SECONDS = 0.05


def run_rollback(settings: Settings, name: str, to_version: str | None) -> dict[str, Any]:
    """Roll back; returns once all traffic is on the version that it names.

    Raises:
        MillraceError: it cannot be done; nothing has changed.
    """
    require_served(name, settings.pipelines)
    ledger = Ledger(settings.ledger)
    request = RollbackRequest(new_id(), name, person(), to_version)

    def perform() -> dict[str, Any]:
        from tasks.rollback import perform

        return perform(request)

    return {"pipeline": name, **see_through(ledger, request, perform, "rolling back")}


def see_through(ledger: Ledger, request: Request, perform: Callable[[], dict[str, Any]], told: str) -> dict[str, Any]:
    """Ask for it and wait for its end; without a standby that acts, `perform` it here.

    Raises:
        MillraceError: it cannot be done; nothing has changed.
    """
    ledger.append(request.fact())
    with Progress().spinner(told):
        return wait(ledger, request) or _by_itself(ledger, request, perform)


def wait(
    ledger: Ledger,
    request: Request,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, Any] | None:
    """What the standby made of it; None when nobody has begun, or whoever did has not come to an end.

    Raises:
        MillraceError: as it ended.
    """
    asked = clock()
    while (outcome := outcome_of(ledger, request)) is None:
        seconds = clock() - asked
        if seconds >= END_SECONDS or (seconds >= BEGIN_SECONDS and not is_worked_on(ledger, request)):
            return None
        pause(_POLL_SECONDS)
    return outcome


def _by_itself(ledger: Ledger, request: Request, perform: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    # As the same run: the standby, should it wake up, has lost the slot.
    get_logger().warning("the standby does not act: this process does", pipeline=request.pipeline)
    try:
        return perform()
    except MillraceError as error:
        # Told to the person: a standby that comes later must not do it after all.
        end(ledger, request, error)
        raise
