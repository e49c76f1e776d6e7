"""The storm, drawn from a seed: incidents, and the events about them as a bad network would bring them."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from millrace.ledger import Incident
from millrace.window import Window
from tasks.responses import EVENT, event_of

NUM_PIPELINES = 50
_START = datetime(2024, 1, 1, tzinfo=UTC)
_PREFECT_YAML = Path(__file__).parents[2] / "prefect.yaml"
#: An event is up to so many events late; its copies come at any time until the end.
_LATE = 500
_MALFORMED_SHARE = 0.01
_HUGE = 2_000_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event as it arrives, when `opened` incidents are in the ledger."""

    event: dict[str, Any]
    opened: int
    is_malformed: bool


def draw_incidents(count: int, seed: int) -> list[Incident]:
    """`count` different incidents of 50 pipelines, in random order."""
    kinds = ("feature_drift", "prediction_drift", "quality")
    incidents = []
    for number in range(count):
        start = _START + timedelta(hours=number // NUM_PIPELINES)
        window = Window(start, start + timedelta(hours=1))
        pipeline = f"storm_{number % NUM_PIPELINES:02d}"
        incidents.append(Incident(pipeline, "1", kinds[number % len(kinds)], window, {"reasons": ["drawn"]}))
    random.Random(seed).shuffle(incidents)
    return incidents


def draw_deliveries(incidents: list[Incident], seed: int) -> list[Delivery]:
    """Each incident's event one to three times, late and out of order, and one in a hundred malformed."""
    rng = random.Random(seed + 1)
    drawn: list[tuple[float, int, dict[str, Any], bool]] = []
    for number, incident in enumerate(incidents):
        drawn.append((number + rng.uniform(0, _LATE), number, event_of(incident), False))
        for _ in range(rng.randint(0, 2)):
            drawn.append((rng.uniform(number, len(incidents) + _LATE), number, event_of(incident), False))
    for number in range(round(len(drawn) * _MALFORMED_SHARE)):
        victim = rng.choice(incidents)
        event = _MALFORMATIONS[number % len(_MALFORMATIONS)](event_of(victim), rng)
        drawn.append((rng.uniform(0, len(incidents)), 0, event, True))
    drawn.sort(key=lambda item: item[0])
    deliveries, opened = [], 0
    for _, number, event, is_malformed in drawn:
        opened = max(opened, number + 1)
        deliveries.append(Delivery(event, opened, is_malformed))
    return deliveries


def trigger_parameter() -> str:
    """The template by which prefect.yaml's trigger makes `respond`'s parameter of an event."""
    deployments = yaml.safe_load(_PREFECT_YAML.read_text())["deployments"]
    respond = next(found for found in deployments if found["name"] == "respond")
    return str(respond["triggers"][0]["parameters"]["incident"])


def respond_parameter(event: dict[str, Any]) -> str | None:
    """What Prefect makes of an event before `respond` sees it: its own schema, its own trigger, its own template.

    None: the server refuses the event, or no trigger of ours fires for it.
    """
    from prefect.server.events.schemas.events import Event, matches
    from prefect.server.utilities.user_templates import TemplateRenderError, render_user_template_sync
    from prefect.settings import PREFECT_EVENTS_MAXIMUM_SIZE_BYTES
    from pydantic import ValidationError

    try:
        received = Event.model_validate(event).receive()
    except ValidationError:
        return None
    fires = received.event == EVENT and matches("millrace.pipeline.*", received.resource.id)
    if not fires or received.size_bytes > PREFECT_EVENTS_MAXIMUM_SIZE_BYTES.value():
        return None
    # As the action does: the value keeps its type, and the deployment's schema wants a string.
    template = trigger_parameter().replace("}}", "| tojson }}")
    try:
        value = json.loads(render_user_template_sync(template, {"event": received}))
    except TemplateRenderError:
        return None
    return value if isinstance(value, str) else None


Malformation = Callable[[dict[str, Any], random.Random], dict[str, Any]]


def _naming(value: Callable[[str, random.Random], Any]) -> Malformation:
    def malform(event: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        payload = {**event["payload"], "incident": value(event["payload"]["incident"], rng)}
        return {**event, "id": str(uuid.UUID(int=rng.getrandbits(128))), "payload": payload}

    return malform


def _without(name: str) -> Malformation:
    return lambda event, _rng: {key: value for key, value in event.items() if key != name}


_MALFORMATIONS: tuple[Malformation, ...] = (
    # Keys that look right and are none.
    _naming(lambda _key, rng: f"incident-{rng.getrandbits(96):024x}"),
    _naming(lambda key, _rng: key[:-1]),
    _naming(lambda key, _rng: key.upper()),
    _naming(lambda key, _rng: f" {key}\n"),
    _naming(lambda key, _rng: f"{key}\x00"),
    _naming(lambda key, _rng: f"{key}' OR '1'='1"),
    _naming(lambda key, _rng: "{{ event.payload }}" + key),
    _naming(lambda _key, _rng: "../../ledger.db"),
    # Wrong types.
    _naming(lambda _key, rng: rng.getrandbits(63)),
    _naming(lambda key, _rng: [key]),
    _naming(lambda key, _rng: {"incident": key}),
    _naming(lambda _key, _rng: None),
    # Too much: below what the server takes, and above.
    _naming(lambda _key, _rng: "x" * (_HUGE // 2)),
    _naming(lambda key, _rng: key * (_HUGE // 20)),
    # Not there, or another's.
    lambda event, _rng: {**event, "payload": {"kind": "quality"}},
    lambda event, _rng: {**event, "payload": "incident"},
    lambda event, _rng: {**event, "event": "millrace.incident.forged"},
    lambda event, _rng: {**event, "resource": {"prefect.resource.id": "elsewhere"}},
    _without("resource"),
    _without("occurred"),
    _without("id"),
)
