"""What the UI is told of a rollout: what is news, now and then the numbers, and nothing while it does not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from millrace.canary import CanaryTest, Observations, RolloutDecision
from millrace.rollouts import Rollout
from tasks import artifacts
from tasks.canary_news import PAUSE_SECONDS, CanaryNews, described
from tests.unit.millrace.canary.test_watch import SPEC, entry
from tests.unit.tasks.conftest import Clock
from tests.waiting import until

HOLD = RolloutDecision("hold", "5 requests in this step, 200 needed")


class Watch:
    """The tests of a rollout, without a log."""

    def __init__(self) -> None:
        self.test = CanaryTest(SPEC)


@pytest.fixture
def rollout() -> Rollout:
    begun = entry(0, package="digest-2", champion="1", serving=3, rules=SPEC.model_dump(mode="json"), promotion={})
    return Rollout(begun, {0: entry(1)})


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(artifacts, "note", lambda _pipeline, _part, *said: made.append(said))
    return made


@pytest.fixture
def news(clock: Clock) -> Iterator[CanaryNews]:
    with closing(CanaryNews("tiny", clock)) as made:
        yield made


def fail(watch: Any, number: int) -> None:
    watch.test.update(Observations(number, number, np.zeros(0)), Observations(9 * number))


def test_what_is_no_news_is_told_now_and_then(
    news: CanaryNews, clock: Clock, rollout: Rollout, told: list[tuple[str, str]]
) -> None:
    watch: Any = Watch()
    counts = []
    for _ in range(4):
        news.tell(rollout, watch, HOLD)
        until(lambda: news._is_free, "the thread")
        counts.append(len(told))
        clock.seconds += PAUSE_SECONDS / 2
    assert counts == [1, 1, 2, 2]
    fail(watch, 20)
    news.tell(rollout, watch, HOLD)
    until(lambda: len(told) == 3, "a breach, which is told at once")
    assert "failures | breach" in told[-1][1]
    assert told[-1][0] == "Version 2: step 1 of 2, 25.00% of the requests"


def test_while_nobody_answers_the_newest_waits_and_the_end_is_told(
    clock: Clock, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, made = threading.Event(), []

    def note(_pipeline: str, _part: str, description: str, _markdown: str) -> None:
        assert hangs.wait(20)
        made.append(description)

    monkeypatch.setattr(artifacts, "note", note)
    with closing(CanaryNews("tiny", clock)) as news:
        watch: Any = Watch()
        news.tell(rollout, watch, HOLD)
        fail(watch, 20)
        for _ in range(3):
            news.tell(rollout, watch, HOLD)
        ended = replace(entry(9, outcome="rejected", reasons=["failures"]), actor="run-1")
        news.end(rollout, ended)
        assert made == []
        hangs.set()
    assert [each.partition(": ")[2].split(",")[0] for each in made] == ["step 1 of 2", "rejected by run-1"]


def test_it_says_what_a_person_can_do(rollout: Rollout) -> None:
    text = described(rollout, "step 1 of 2", HOLD.reason, [])
    for said in (
        "Version 2 beside version 1",
        HOLD.reason,
        "| 1 | 25.00% | 2023-11-14 22:13:21 |",
        "--resume",
        "--stop",
    ):
        assert said in text
