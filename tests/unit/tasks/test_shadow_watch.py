"""One process for each pipeline that mirrors, for as long as the ledger says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from millrace.errors import DigestError
from millrace.ledger import Ledger, Token
from millrace.settings import Settings
from millrace.traffic_rules import TrafficRules, VersionShare
from tasks.shadow_watch import MOST_PAUSE_SECONDS, PAUSE_SECONDS, ShadowWatch
from tests.ledgers import tamper
from tests.unit.tasks.conftest import Clock

SLEEPS = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


class Started(list["tuple[str, subprocess.Popen[bytes]]"]):
    """The processes that were started, and for which pipeline."""

    def start(self, _: Settings, pipeline: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(SLEEPS)
        self.append((pipeline, process))
        return process

    @property
    def alive(self) -> list[str]:
        return [pipeline for pipeline, process in self if process.poll() is None]


@pytest.fixture
def started() -> Started:
    return Started()


@pytest.fixture
def watch(settings: Settings, ledger: Ledger, clock: Clock, started: Started) -> Iterator[ShadowWatch]:
    made = ShadowWatch(settings, ledger, started.start, clock)
    yield made
    made.close()
    assert started.alive == []


@pytest.fixture
def mirror(ledger: Ledger) -> Callable[[str, float], None]:
    def say(pipeline: str, share: float) -> None:
        token = ledger.slots.take(pipeline, "serving", "run")
        assert isinstance(token, Token)
        because = ledger.decide(pipeline, "promoted", "1", {})
        ledger.serve(pipeline, "1", "digest-1", because=because, token=token)
        rules = TrafficRules(TrafficRules.only("1").division, shadow=VersionShare("2", share) if share else None)
        ledger.divide(pipeline, "1", rules, {"2": "digest-2"}, actor="me", token=token, once=str(share))

    return say


def test_a_process_comes_and_goes_with_the_rules(
    watch: ShadowWatch, mirror: Callable[[str, float], None], started: Started, clock: Clock
) -> None:
    def look() -> list[str]:
        clock.seconds += 5
        watch.tick()
        return started.alive

    assert look() == []
    mirror("p", 0.5)
    mirror("q", 0.5)
    assert look() == look() == ["p", "q"]
    mirror("p", 0.2)
    assert look() == ["q", "p"], "for other rules another process"
    mirror("q", 0.0)
    assert look() == ["p"]
    assert len(started) == 3


def test_rules_that_somebody_altered_keep_no_other_pipeline_from_its_shadow(
    watch: ShadowWatch, mirror: Callable[[str, float], None], started: Started, settings: Settings
) -> None:
    mirror("p", 0.5)
    mirror("q", 0.5)
    tamper(settings.ledger, "UPDATE entries SET detail = '{}' WHERE kind = 'traffic' AND pipeline = 'p'")
    with pytest.raises(DigestError):
        watch.tick()
    assert started.alive == ["q"]


def test_one_that_ends_is_started_again_ever_more_patiently(
    watch: ShadowWatch, mirror: Callable[[str, float], None], started: Started, clock: Clock
) -> None:
    mirror("p", 0.5)
    pauses, last = [], clock.seconds
    for _ in range(2000):
        before = len(started)
        watch.tick()
        if len(started) > before:
            pauses.append(clock.seconds - last)
            last = clock.seconds
            started[-1][1].kill()
            started[-1][1].wait()
        clock.seconds += 1
    assert pauses[1] >= PAUSE_SECONDS
    assert sorted(pauses) == pauses
    assert len(pauses) < 15
    assert pauses[-1] <= MOST_PAUSE_SECONDS + 2
