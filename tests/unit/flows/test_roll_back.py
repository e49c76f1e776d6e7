"""The command waits for the standby as long as it is of use, and then does it itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flows import roll_back
from flows.roll_back import BEGIN_SECONDS, END_SECONDS, run_rollback, wait
from millrace.errors import ConflictError, ServiceError, UnknownNameError
from millrace.ledger import Ledger
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from tasks.rollback_requests import REQUESTED, RollbackRequest, end, new_id, outcome_of

REQUEST = RollbackRequest(new_id("a"), "tiny", "person:me")


class Clock:
    """Time that passes by pausing, with something that happens at one moment."""

    def __init__(self, at: float = 0.0, happens: Callable[[], object] = lambda: None) -> None:
        self.now, self._at, self._happens = 0.0, at, happens

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        if before < self._at <= self.now:
            self._happens()


@pytest.fixture
def ledger(local_settings: Settings) -> Ledger:
    return Ledger(local_settings.ledger)


def test_what_the_standby_did_is_the_answer(ledger: Ledger) -> None:
    clock = Clock(1.0, lambda: end(ledger, REQUEST, {"version": "1"}))
    assert wait(ledger, REQUEST, clock, clock.pause) == {"version": "1"}
    assert clock.now < BEGIN_SECONDS


def test_why_the_standby_refused_is_raised(ledger: Ledger) -> None:
    clock = Clock(1.0, lambda: end(ledger, REQUEST, ConflictError("nothing served before")))
    with pytest.raises(ConflictError, match="nothing served before"):
        wait(ledger, REQUEST, clock, clock.pause)


def test_nobody_is_waited_for_who_does_not_begin(ledger: Ledger) -> None:
    clock = Clock()
    assert wait(ledger, REQUEST, clock, clock.pause) is None
    assert clock.now == pytest.approx(BEGIN_SECONDS, abs=0.1)


def test_who_has_begun_is_waited_for_but_not_for_ever(ledger: Ledger) -> None:
    clock = Clock(1.0, lambda: ledger.heartbeats.begin(REQUEST.id, "rollback", "tiny"))
    assert wait(ledger, REQUEST, clock, clock.pause) is None
    assert clock.now == pytest.approx(END_SECONDS, abs=0.1)


def test_an_unknown_pipeline_asks_for_nothing(ledger: Ledger, local_settings: Settings, tiny: Pipeline) -> None:
    with pytest.raises(UnknownNameError):
        run_rollback(local_settings, "tini", None)
    assert ledger.entries(None, REQUESTED) == []


def test_what_this_process_could_not_do_is_not_done_later(
    ledger: Ledger, local_settings: Settings, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_: RollbackRequest) -> None:
        raise ServiceError("Serve is away")

    monkeypatch.setattr(roll_back, "wait", lambda *_: None)
    monkeypatch.setattr("tasks.rollback.perform", fails)
    with pytest.raises(ServiceError):
        run_rollback(local_settings, "tiny", None)
    (entry,) = ledger.entries("tiny", REQUESTED)
    with pytest.raises(ServiceError, match="Serve is away"):
        outcome_of(ledger, RollbackRequest.of(entry))
