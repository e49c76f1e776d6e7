"""Who asked for a flow run: what is known of it. Prefect's open-source server knows no users."""

from __future__ import annotations

from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from millrace.errors import ConfigError
from millrace.ledger import SYSTEM, Ledger
from millrace.settings import load_settings

_PERSON = "person:"
_MOST_CHARS = 80


def requester(incident: str | None, claimed: str | None) -> str | None:
    """`millrace` for a schedule and for the response to an incident, else the person named; None when nobody is.

    Raises:
        ConfigError: who is named is no person.
    """
    if claimed is not None:
        if not claimed.startswith(_PERSON) or claimed == _PERSON or len(claimed) > _MOST_CHARS:
            raise ConfigError("requested_by names no person", got=claimed, allowed=f"{_PERSON}NAME")
        return claimed
    if incident is not None:
        found = Ledger(load_settings().ledger).outbox.find(incident)
        return SYSTEM if found is not None and found.response in (None, flow_run.get_id()) else None
    context = FlowRunContext.get()
    is_scheduled = context is not None and context.flow_run is not None and context.flow_run.auto_scheduled
    return SYSTEM if is_scheduled else None
