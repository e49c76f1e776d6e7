"""The `approvals` section: what waits for a person."""

from __future__ import annotations

from pydantic import Field

from millrace.spec.base import Section


class ApprovalsSpec(Section):
    """What is done only when a person has approved it. Without an answer in time, nothing is done."""

    retrain: bool = Field(default=False, description="A training waits for a person before it starts.")
    promote: bool = Field(default=False, description="A challenger that passed its gate waits before it serves.")
    change_threshold: bool = Field(
        default=False,
        description="A change of evaluation, monitoring, serving.guard, data.max_quarantined_share or this section "
        "waits; until then the values accepted before stay in force.",
    )
    expires_hours: float = Field(
        default=24.0, gt=0, le=8760, description="Hours after which a request without an answer counts as rejected."
    )
    max_tries: int = Field(default=5, ge=1, le=100, description="Wrong codes after which a request is closed.")
