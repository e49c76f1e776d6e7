"""Checks that come late, twice and at once: one ledger, and the brakes hold."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from millrace.ledger import Ledger
from millrace.spec import BrakesSpec
from millrace.verdict import Verdict
from millrace.window import Window
from tasks.checks import release_incident
from tasks.registry import Version
from tasks.run import Run

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 120
NUM_CHECKERS = 4
CHAMPION = cast(Version, SimpleNamespace(version="1"))


def check(ledger: Ledger, rule: BrakesSpec, day: int, is_bad: bool, run: str) -> None:
    """Judge one window as a flow run does."""
    spec = SimpleNamespace(monitoring=SimpleNamespace(brakes=rule))
    pipeline = SimpleNamespace(name="flapping", spec=spec)
    verdict = Verdict("quality", not is_bad, "auc", 0.5, 0.6, ("drawn",))
    window = Window(START + day * DAY, START + (day + 1) * DAY)
    release_incident(cast(Run, SimpleNamespace(pipeline=pipeline, ledger=ledger, id=run)), CHAMPION, window, [verdict])


@pytest.mark.parametrize(
    ("rule", "fewest"),
    [
        (BrakesSpec(bad_windows=1, of_windows=1, cool_down_days=1.0, max_incidents=2, budget_days=30.0), 6),
        (BrakesSpec(bad_windows=2, of_windows=3, cool_down_days=14.0, max_incidents=6, budget_days=365.0), 5),
    ],
)
def test_the_brakes_hold_over_checks_at_once(rule: BrakesSpec, fewest: int, tmp_path: Path) -> None:
    rng = random.Random(0)
    bad = [rng.random() < 0.5 for _ in range(DAYS)]
    late = [(day + rng.uniform(0, 20), day) for day in range(DAYS) for _ in range(rng.choice([1, 1, 1, 2]))]
    days = [day for _, day in sorted(late)]
    url = f"sqlite:///{tmp_path}/ledger.db"

    def checker(number: int) -> None:
        ledger = Ledger(url)
        for place in range(number, len(days), NUM_CHECKERS):
            check(ledger, rule, days[place], bad[days[place]], f"run-{place}")

    with ThreadPoolExecutor(NUM_CHECKERS) as pool:
        list(pool.map(checker, range(NUM_CHECKERS)))
    ends = [incident.window.end for incident in Ledger(url).outbox.of("flapping")]
    cool_down, budget = timedelta(days=rule.cool_down_days), timedelta(days=rule.budget_days)
    assert all(later - earlier >= cool_down for earlier, later in pairwise(ends))
    assert all(sum(begin <= end <= begin + budget for end in ends) <= rule.max_incidents for begin in ends)
    assert len(ends) >= fewest, "a detector that flaps all the time is heard"
