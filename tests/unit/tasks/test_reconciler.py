"""An incident that nobody has answered is answered from here, once, however long its event was lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

import tasks.prefect_api
from millrace import logs
from millrace.errors import ConfigError, ServiceError
from millrace.ledger import Incident, Ledger
from millrace.settings import Settings
from millrace.window import Window
from tasks.reconciler import EVENT_SECONDS, Responder, _tick
from tasks.responses import start_training
from tests.chaos.outside import Outside
from tests.unit.tasks.conftest import Clock

INCIDENT = Incident(
    "p", "1", "drift", Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC)), {"reasons": []}
)


@pytest.fixture
def responder(settings: Settings, ledger: Ledger, outside: Outside, clock: Clock) -> Responder:
    return Responder(settings, ledger, clock)


def runs(outside: Outside) -> list[dict[str, object]]:
    return list(outside.read()["runs"].values())


def test_an_event_is_given_its_time(responder: Responder, ledger: Ledger, outside: Outside, clock: Clock) -> None:
    ledger.outbox.open(INCIDENT)
    responder.tick()
    clock.seconds += EVENT_SECONDS - 0.1
    responder.tick()
    assert runs(outside) == []


def test_a_lost_event_is_made_good(responder: Responder, ledger: Ledger, outside: Outside, clock: Clock) -> None:
    ledger.outbox.open(INCIDENT, replace(INCIDENT, kind="quality"))
    for _ in range(3):
        responder.tick()
        clock.seconds += EVENT_SECONDS
    assert [run["flow"] for run in runs(outside)] == ["training", "training"]
    assert ledger.outbox.unanswered() == []


def test_the_event_and_the_reconciler_start_one_training(
    responder: Responder, settings: Settings, ledger: Ledger, outside: Outside, clock: Clock
) -> None:
    ledger.outbox.open(INCIDENT)
    stale = ledger.outbox.find(INCIDENT.key)
    assert stale is not None
    responder.tick()
    clock.seconds += EVENT_SECONDS
    responder.tick()
    first = start_training(settings, ledger, stale)
    again = start_training(settings, ledger, stale)
    assert first == again
    assert len(runs(outside)) == 1


def test_while_prefect_is_away_nothing_is_lost(
    responder: Responder, ledger: Ledger, outside: Outside, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.outbox.open(INCIDENT)
    responder.tick()
    clock.seconds += EVENT_SECONDS

    def away(*_: object, **__: object) -> None:
        raise ServiceError("Prefect does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(tasks.prefect_api, "_ask", away)
        with pytest.raises(ServiceError):
            responder.tick()
    responder.tick()
    assert ledger.outbox.unanswered() == []
    assert len(runs(outside)) == 1


def test_one_that_cannot_be_answered_keeps_no_other_waiting(
    responder: Responder, ledger: Ledger, outside: Outside, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = replace(INCIDENT, pipeline="bad")
    ledger.outbox.open(bad, INCIDENT)
    responder.tick()
    clock.seconds += EVENT_SECONDS
    ask = tasks.prefect_api._ask

    def refuse(*given: Any, **named: Any) -> Any:
        if "create_flow_run" in given[3] and given[4]["parameters"]["pipeline"] == "bad":
            raise ConfigError("Prefect refuses these parameters")
        return ask(*given, **named)

    monkeypatch.setattr(tasks.prefect_api, "_ask", refuse)
    responder.tick()
    assert [incident.key for incident in ledger.outbox.unanswered()] == [bad.key]
    monkeypatch.setattr(tasks.prefect_api, "_ask", ask)
    responder.tick()
    assert len(ledger.outbox.unanswered()) == 1, "it is not tried at each tick"
    clock.seconds += EVENT_SECONDS
    responder.tick()
    assert ledger.outbox.unanswered() == []


def test_a_defect_of_one_part_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def tick(self) -> None:
            raise ValueError("no JSON")

    logs.configure()  # to the streams of this test, whichever ran before it
    _tick(Broken())
    told = capsys.readouterr()
    assert "ValueError: no JSON" in told.out + told.err
    assert "Broken" in told.out + told.err
