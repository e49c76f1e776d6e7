"""Answer an incident's event: start one training for it, however often the event comes."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from millrace.ledger import Ledger
from millrace.settings import load_settings
from tasks.liveness import living
from tasks.responses import find_incident, start_training
from tasks.run import going_on


# Repeating it starts nothing twice: the training is found again by its idempotency key.
@flow(name="respond", persist_result=False)
def respond(incident: str) -> str:
    """Start the training that answers an incident, and record which one it is.

    Args:
        incident: Key of the incident in the ledger, as its event carries it.
    """
    settings = load_settings()
    ledger, run = Ledger(settings.ledger), str(flow_run.get_id())
    with going_on(run):
        found = find_incident(ledger, incident)
        with living(ledger, run, "respond", found.pipeline):
            return start_training(settings, ledger, found)
