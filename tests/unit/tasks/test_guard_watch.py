"""The guard asks for one rollback of a version that breaches, and for none of any other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace.inference_log import answer_record, answers_writer, failure_record, failures_writer
from millrace.ledger import Entry, Ledger, Token
from millrace.log_writer import LogWriter
from millrace.pipeline import Pipeline
from millrace.requests import RequestContract
from millrace.settings import Settings
from tasks.guard_watch import BREACHED, GuardWatch
from tasks.rollback_requests import REQUESTED, RollbackRequest, pending

GUARD = {"min_requests": 20, "max_failed_share": 0.2, "max_p99_ms": 100, "window_seconds": 30, "watch_minutes": 10}


class Scene:
    """Pipeline `tiny` with a ledger, a log and a guard whose clock stands still until it is moved."""

    def __init__(self, pipeline: Pipeline, settings: Settings) -> None:
        self.settings, self.ledger = settings, Ledger(settings.ledger)
        folder = settings.state / "inference" / "tiny"
        self.data = pipeline.spec.data
        self.answers: LogWriter = answers_writer(folder, self.data, 1e9)
        self.failures: LogWriter = failures_writer(folder, 1e9)
        self._request = RequestContract(pipeline.spec).parse(b'{"rows":[{"size":1,"weight":0,"colour":"red"}]}')
        self.now = time.time() + 1
        self.watches: list[GuardWatch] = []
        self.watch = self.another_watch()

    def another_watch(self) -> GuardWatch:
        self.watches.append(GuardWatch(self.settings, self.ledger, clock=lambda: self.now))
        return self.watches[-1]

    def close(self) -> None:
        self.answers.close()
        self.failures.close()
        for watch in self.watches:
            watch.close()

    def serve(self, version: str, kind: str = "promoted") -> Entry:
        token = self.ledger.slots.take("tiny", "serving", "run")
        assert isinstance(token, Token)
        because = self.ledger.decide("tiny", kind, version, {}, once=f"{kind}{version}")
        entry = self.ledger.serve("tiny", version, f"digest-{version}", because=because, token=token)
        self.ledger.slots.release(token)
        self.now = entry.at.timestamp() + 1
        return entry

    def send(self, version: str, answered: int = 0, failed: int = 0, *, seconds: float = 0.01, ago: float = 0) -> None:
        at = datetime.fromtimestamp(self.now, UTC) - timedelta(seconds=ago)
        for number in range(answered):
            record = answer_record(
                self._request,
                request_id=f"{self.now}-{number}",
                version=version,
                answered_at=at,
                seconds=seconds,
                prediction=[0.5],
            )
            self.answers.append(record)
        for number in range(failed):
            self.failures.append(failure_record(f"f{self.now}-{number}", version, at, 500, ValueError()))

    def requests(self) -> list[RollbackRequest]:
        return pending(self.ledger)


@pytest.fixture
def scene(tmp_path: Path, local_settings: Settings, write_pipeline: Callable[..., Pipeline]) -> Iterator[Scene]:
    scene = Scene(write_pipeline(tmp_path, change={"serving": {"guard": GUARD}}), local_settings)
    yield scene
    scene.close()


def test_a_breach_asks_once_and_the_ledger_tells_why(scene: Scene) -> None:
    scene.serve("1")
    entry = scene.serve("2")
    scene.send("2", answered=15, failed=4)
    scene.watch.tick()
    assert scene.requests() == []
    scene.send("2", failed=1)
    for watch in (scene.watch, scene.watch, scene.another_watch()):
        watch.tick()
    (request,) = scene.requests()
    assert (request.pipeline, request.to_version, request.requested_by) == ("tiny", "1", "guard")
    assert request.only_while == entry.sequence
    assert "5 of 20 requests failed" in request.reason
    (breach,) = scene.ledger.entries("tiny", BREACHED)
    assert (breach.subject, breach.detail["back_to"]) == ("2", "1")
    verdict = breach.detail["verdict"]
    assert (verdict["metric"], verdict["observed"], verdict["threshold"]) == ("failed_share", 0.25, 0.2)


def test_slow_answers_are_a_breach_too(scene: Scene) -> None:
    scene.serve("1")
    scene.serve("2")
    scene.send("2", answered=30, seconds=0.2)
    scene.watch.tick()
    (breach,) = scene.ledger.entries("tiny", BREACHED)
    assert breach.detail["verdict"]["metric"] == "p99_ms"
    assert len(scene.requests()) == 1


def harmless(scene: Scene) -> dict[str, Callable[[], Any]]:
    return {
        "failures of the version before": lambda: scene.send("1", failed=50),
        "failures that are old": lambda: (scene.send("2", failed=50), move(scene, 31)),
        "failures before it served": lambda: scene.send("2", failed=50, ago=20),
        "a version that is trusted by now": lambda: (move(scene, 601), scene.send("2", failed=50)),
        "a version that a rollback brought back": lambda: (scene.serve("1", "rolled_back"), scene.send("1", failed=50)),
    }


def move(scene: Scene, seconds: float) -> None:
    scene.now += seconds


@pytest.mark.parametrize(
    "case",
    [
        "failures of the version before",
        "failures that are old",
        "failures before it served",
        "a version that is trusted by now",
        "a version that a rollback brought back",
    ],
)
def test_what_is_no_breach(scene: Scene, case: str) -> None:
    scene.serve("1")
    scene.serve("2")
    harmless(scene)[case]()
    scene.watch.tick()
    assert scene.ledger.entries("tiny", BREACHED, REQUESTED) == []


def test_without_a_version_before_it_is_recorded_and_serves_on(scene: Scene) -> None:
    scene.serve("1")
    scene.send("1", failed=50)
    scene.watch.tick()
    scene.watch.tick()
    (breach,) = scene.ledger.entries("tiny", BREACHED)
    assert breach.detail["back_to"] is None
    assert scene.requests() == []


def test_a_guard_that_is_off_does_nothing(scene: Scene, write_pipeline: Callable[..., Pipeline]) -> None:
    write_pipeline(scene.settings.pipelines.parent, change={"serving": {"guard": {"enabled": False}}})
    scene.serve("1")
    scene.serve("2")
    scene.send("2", failed=500)
    scene.watch.tick()
    assert scene.ledger.entries("tiny", BREACHED) == []


def test_a_reconciler_that_starts_late_sees_what_was_closed_meanwhile(scene: Scene) -> None:
    scene.serve("1")
    scene.serve("2")
    scene.send("2", failed=25)
    scene.failures.rotate()
    scene.another_watch().tick()
    assert len(scene.requests()) == 1
