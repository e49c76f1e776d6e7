"""What is seen of an attempt is kept whatever became of it."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.errors import DataError, ServiceError
from millrace.goodput import Attempt
from ray_jobs.train import monitor
from ray_jobs.train.beats import Beat
from ray_jobs.train.monitor import Desk, Seen, watching
from ray_jobs.train.stopwatch import Reading

ATTEMPT = Attempt(1, 2, 100.0, 100.0, {})


@pytest.fixture(autouse=True)
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk in this process; the way to it over Ray is tried by the drills."""
    made = Desk()

    def look(desk: Any, seen: Seen, report: Any) -> None:
        told = made.read()
        seen.heard(told.beats)
        for metrics in told.rounds:
            report(metrics)

    monkeypatch.setattr(monitor, "_look", look)
    return made


def beat(rank: int, step: int, attempt: int = 1) -> Beat:
    return Beat(attempt, rank, 2, "node", 7, Reading({"compute": 3.0}, "compute", 0.1, step, 0.5, {4: {}}), 2)


def test_what_workers_told_is_in_the_account(desk: Desk) -> None:
    kept: list[Attempt] = []
    rounds: list[Any] = []
    with watching(None, ATTEMPT, kept.append, rounds.append) as seen:
        desk.put(beat(0, 9, attempt=0))
        desk.put(beat(0, 5))
        desk.put(beat(1, 6))
        desk.put(beat(0, 99, attempt=0))
        desk.tell({"step": 5.0})
        seen.outcome = "finished"
    account = kept[-1]
    assert (account.number, account.outcome, account.resumed_step) == (1, "finished", 2)
    assert set(account.workers) == {0, 1}
    assert account.ended > account.began
    assert seen.progress == 6, "what an earlier attempt tells too late does not count"
    assert rounds == [{"step": 5.0}]


def test_an_attempt_that_ends_with_an_error_is_kept_as_failed(desk: Desk) -> None:
    kept: list[Attempt] = []
    desk.put(beat(0, 5))
    with pytest.raises(DataError), watching(None, ATTEMPT, kept.append, lambda metrics: None):
        raise DataError("no rows")
    assert (kept[-1].outcome, set(kept[-1].workers)) == ("failed", {0})


def test_accounts_that_cannot_be_kept_hide_nothing() -> None:
    def keep(attempt: Attempt) -> None:
        raise ServiceError("the store is away")

    with pytest.raises(DataError, match="no rows"), watching(None, ATTEMPT, keep, lambda metrics: None):
        raise DataError("no rows")
    with watching(None, ATTEMPT, keep, lambda metrics: None) as seen:
        seen.outcome = "finished"
    assert seen.attempt.outcome == "finished"
