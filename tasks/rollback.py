"""Doing what a rollback request asks for."""

from __future__ import annotations

from typing import Any

from tasks.carry_out import carry_out
from tasks.rollback_requests import RollbackRequest
from tasks.rollout import roll_back
from tasks.run import Run


def perform(request: RollbackRequest) -> dict[str, Any]:
    """Bring the request to its end; errors as in `carry_out`."""

    def work(run: Run) -> dict[str, Any]:
        deployed = roll_back(
            run,
            request.to_version,
            request.requested_by,
            only_while=request.only_while,
            reason=request.reason,
        )
        return {"version": deployed.version, "seconds": deployed.seconds, "url": deployed.url}

    return carry_out(request, "rollback", work)
