"""Who asked for a flow run: what is known of it. Prefect's open-source server knows no users."""

from __future__ import annotations

from contextlib import closing

from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from millrace.errors import ConfigError
from millrace.ledger import SYSTEM, Ledger
from millrace.settings import load_settings
from tasks.responses import find_incident

_PERSON = "person:"
_MOST_CHARS = 80


def requester(incident: str | None, claimed: str | None) -> str | None:
    """`millrace` for a schedule and for the response to an incident, else the person named; None when nobody is.

    Raises:
        ConfigError: who is named is no person.
        UnknownNameError: there is no such incident.
    """
    if claimed is not None:
        name = claimed.removeprefix(_PERSON)
        if name in ("", claimed) or len(claimed) > _MOST_CHARS or not name.isprintable():
            raise ConfigError(
                "requested_by names no person",
                got=claimed,
                allowed=f"{_PERSON}NAME, printable, {_MOST_CHARS} characters at most",
                next="correct it",
            )
        return claimed
    if incident is not None:
        with closing(Ledger(load_settings().ledger)) as ledger:
            found = find_incident(ledger, incident)
        return SYSTEM if found.response in (None, flow_run.get_id()) else None
    context = FlowRunContext.get()
    is_scheduled = context is not None and context.flow_run is not None and context.flow_run.auto_scheduled
    return SYSTEM if is_scheduled else None
