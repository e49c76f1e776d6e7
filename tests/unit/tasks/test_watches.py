"""What a watch cannot do for one pipeline or run keeps it from none of the others."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

import tasks.prefect_api
from millrace.approvals.requests import AWAITED
from millrace.errors import ConflictError, MillraceError, ServiceError
from millrace.ledger import Entry, Fact, Ledger, Token
from millrace.settings import Settings
from tasks import endpoint
from tasks.approval_watch import ApprovalWatch
from tasks.endpoint import is_by_ledger
from tasks.reviving import Reviver
from tasks.serving_watch import TOLERATED_SECONDS, ServingWatch
from tasks.turns import each_in_turn
from tests.chaos.outside import Outside
from tests.unit.tasks.conftest import Clock


def serve(ledger: Ledger, pipeline: str) -> Entry:
    token = ledger.slots.take(pipeline, "serving", "run")
    assert isinstance(token, Token)
    because = ledger.decide(pipeline, "promoted", "1", {})
    entry = ledger.serve(pipeline, "1", "digest", because=because, token=token)
    ledger.slots.release(token)
    return entry


def refuse(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    """Have Prefect refuse to change the state of `run`."""
    ask = tasks.prefect_api._ask

    def asked(settings: Settings, point: str, method: str, path: str, *given: Any, **named: Any) -> Any:
        if point == "set_state" and run in path:
            raise ConflictError("Prefect refuses it")
        return ask(settings, point, method, path, *given, **named)

    monkeypatch.setattr(tasks.prefect_api, "_ask", asked)


def test_all_have_their_turn_and_the_first_failure_is_told() -> None:
    done = []

    def work(item: int) -> None:
        done.append(item)
        if item < 3:
            raise ConflictError(f"not {item}")

    with pytest.raises(ConflictError, match="not 1"):
        each_in_turn([1, 2, 3], work)
    assert done == [1, 2, 3]


def test_a_service_that_is_away_is_not_asked_for_each() -> None:
    done = []

    def work(item: int) -> None:
        done.append(item)
        raise ServiceError("away")

    with pytest.raises(ServiceError):
        each_in_turn([1, 2, 3], work)
    assert done == [1]


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"{}", b'{"version": "1", "package_digest": "d", "traffic": 1}'])
def test_what_is_no_description_of_ours_is_something_else_and_keeps_no_other_waiting(
    settings: Settings,
    ledger: Ledger,
    outside: Outside,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    entries = {name: serve(ledger, name) for name in ("a", "b")}
    answers = {"a": httpx.Response(200, content=content), "b": httpx.Response(404)}
    monkeypatch.setattr(endpoint, "ask", lambda _, name: answers[name])
    watch = ServingWatch(settings, ledger, clock)
    watch.tick()
    clock.seconds += TOLERATED_SECONDS
    watch.tick()
    started = [run["parameters"]["pipeline"] for run in outside.read()["runs"].values()]
    assert sorted(started) == sorted(entries)
    assert endpoint.description(settings, "a") is None or not is_by_ledger(json.loads(content), entries["a"], None)


def test_a_run_that_cannot_go_on_keeps_no_other_suspended(
    settings: Settings, ledger: Ledger, outside: Outside, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("run-1", "run-2"):
        start(run, "PAUSED")
        # Its request has expired by now.
        ledger.append(Fact("tiny", "approval_requested", f"ask-{run}", _request(), once=run))
        ledger.append(Fact("tiny", AWAITED, run, {"request": f"ask-{run}"}))
    refuse(monkeypatch, "run-1")
    with pytest.raises(ConflictError):
        ApprovalWatch(settings, ledger).tick()
    assert outside.read()["runs"]["run-2"]["state"] == "SCHEDULED"


def test_a_dead_run_that_cannot_go_on_keeps_no_other_dead(
    settings: Settings, ledger: Ledger, outside: Outside, start: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("run-1", "run-2"):
        start(run, "CRASHED")
    refuse(monkeypatch, "run-1")
    with pytest.raises(MillraceError):
        Reviver(settings, ledger, clock).tick()
    assert outside.read()["runs"]["run-2"]["state"] == "SCHEDULED"


def _request() -> dict[str, Any]:
    time = "2024-01-01T00:00:00+00:00"
    return {
        "action": "promote", "subject": "s", "basis": "b", "requested_by": "millrace", "requested_at": time,
        "expires_at": time, "max_tries": 1, "summary": "", "evidence": "",
    }  # fmt: skip
