"""From an incident to exactly one training: the event, and the response.

The ledger is the truth; Prefect's event is the fast path. An incident's key is the idempotency key of the training's
flow run, so however often the event comes, one training starts.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime
from typing import Any

from millrace.errors import UnknownNameError, shorten
from millrace.ledger import Incident, Ledger
from millrace.logs import get_logger
from millrace.settings import Settings
from tasks.prefect_api import publish, submit

EVENT = "millrace.incident.opened"
RESOURCE = "millrace.pipeline"
TRAINING = "training/training"

_KEY = re.compile(r"incident-[0-9a-f]{24}")


def event_of(incident: Incident) -> dict[str, Any]:
    """The event that tells of `incident`, as Prefect takes it."""
    return {
        # New each time: Prefect drops an event whose id it has seen, and a re-send is meant to be heard.
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": EVENT,
        "resource": {
            "prefect.resource.id": f"{RESOURCE}.{incident.pipeline}",
            "prefect.resource.name": incident.pipeline,
            "millrace.incident": incident.key,
        },
        "payload": {"incident": incident.key, "kind": incident.kind, "version": incident.version},
    }


def send_event(settings: Settings, incident: Incident) -> None:
    """Put the incident's event on Prefect's bus, waiting until the server has it.

    Raises:
        ServiceError: the server does not take it. The incident stays unanswered, and the reconciler sees to it.
    """
    publish(settings, event_of(incident))


def find_incident(ledger: Ledger, key: str) -> Incident:
    """The incident that an event names. An event proves nothing: what is not in the ledger is refused.

    Raises:
        UnknownNameError: the ledger has no such incident.
    """
    # Only what may be a key is looked up: an event may carry anything, of any length, a NUL included.
    incident = ledger.outbox.find(key) if _KEY.fullmatch(key) else None
    if incident is None:
        raise UnknownNameError(
            f"no incident '{shorten(key)}' in the ledger", next="nothing: the event is not one of ours"
        )
    return incident


def start_training(settings: Settings, ledger: Ledger, incident: Incident) -> str:
    """Start the training that answers `incident`, or find the one that was started; returns its flow run's id."""
    if incident.response is not None:
        return incident.response
    started = submit(
        settings,
        TRAINING,
        {"pipeline": incident.pipeline, "as_of": incident.window.end.isoformat(), "incident": incident.key},
        name=f"{incident.pipeline}-{incident.window.end:%Y-%m-%d}-{incident.kind}",
        idempotency_key=incident.key,
    )
    answer = ledger.outbox.answer(incident.key, started)
    get_logger().info("incident answered", incident=incident.key, pipeline=incident.pipeline, training=answer)
    return answer
