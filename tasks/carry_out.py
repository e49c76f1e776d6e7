"""Bringing what was asked for to its end, as the run that the request names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millrace.errors import FencedError, MillraceError, ServiceError
from tasks.rollback_requests import Request, end
from tasks.run import Run, open_run
from tasks.slots import holding


def carry_out(request: Request, flow: str, work: Callable[[Run], dict[str, Any]]) -> dict[str, Any]:
    """Do `work` while the run holds the pipeline's serving slot; what came of it is recorded.

    Raises:
        ServiceError: a part of the stack is away. Nothing is recorded: it may be done again.
        MillraceError: it cannot be done; that is recorded, and nothing has changed.
    """
    with open_run(flow, request.pipeline, run_id=request.id) as opened:
        try:
            with holding(opened, "serving") as run:
                outcome = work(run)
        except FencedError:
            raise
        except MillraceError as error:
            if not is_passing(error):
                end(opened.ledger, request, error)
            raise
        end(opened.ledger, request, outcome)
    return outcome


def is_passing(error: MillraceError) -> bool:
    """Whether the same may succeed later."""
    return isinstance(error, ServiceError) and error.retryable
