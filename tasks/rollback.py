"""Doing what a rollback request asks for."""

from __future__ import annotations

from typing import Any

from millrace.errors import FencedError, MillraceError, ServiceError
from tasks.rollback_requests import RollbackRequest, end
from tasks.rollout import roll_back
from tasks.run import open_run
from tasks.slots import holding


def perform(request: RollbackRequest) -> dict[str, Any]:
    """Bring the request to its end, as the run that it names; what came of it is recorded.

    Raises:
        ServiceError: a part of the stack is away. Nothing is recorded: it may be done again.
        MillraceError: it cannot be done; that is recorded, and nothing has changed.
    """
    with open_run("rollback", request.pipeline, run_id=request.id) as opened:
        try:
            with holding(opened, "serving") as run:
                deployed = roll_back(
                    run,
                    request.to_version,
                    request.requested_by,
                    only_while=request.only_while,
                    reason=request.reason,
                )
        except FencedError:
            raise
        except MillraceError as error:
            if not is_passing(error):
                end(opened.ledger, request, error)
            raise
        outcome = {"version": deployed.version, "seconds": deployed.seconds, "url": deployed.url}
        end(opened.ledger, request, outcome)
    return outcome


def is_passing(error: MillraceError) -> bool:
    """Whether the same may succeed later."""
    return isinstance(error, ServiceError) and error.retryable
