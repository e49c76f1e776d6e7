"""An event proves nothing: what it names is an incident of the ledger, or it is refused in few words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from millrace.errors import UnknownNameError
from millrace.ledger import Incident, Ledger
from millrace.window import Window
from tasks.responses import event_of, find_incident

WINDOW = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 8, tzinfo=UTC))
INCIDENT = Incident("p", "1", "quality", WINDOW, {"reasons": ["worse"]})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ledger.outbox.open(INCIDENT)
    return ledger


def test_the_event_of_an_incident_names_it(ledger: Ledger) -> None:
    assert find_incident(ledger, event_of(INCIDENT)["payload"]["incident"]) == INCIDENT


@pytest.mark.parametrize(
    "key",
    [
        "",
        "None",
        "incident-" + "0" * 24,
        INCIDENT.key[:-1],
        INCIDENT.key.upper(),
        f"{INCIDENT.key}\n",
        f"{INCIDENT.key}\x00",
        "incident-\ud800",
        "x" * 1_000_000,
    ],
)
def test_what_is_no_incident_is_refused(ledger: Ledger, key: str) -> None:
    with pytest.raises(UnknownNameError, match="nothing: the event is not one of ours") as refused:
        find_incident(ledger, key)
    assert len(str(refused.value)) < 1000
