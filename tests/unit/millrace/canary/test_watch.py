"""Who begins to watch a rollout late has the very tests of who watched it from the start."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from millrace.canary.watch import CanaryWatch
from millrace.errors import DataError
from millrace.ledger import Entry
from millrace.log_tables import ANSWERS
from millrace.rollouts import Rollout
from millrace.spec import RolloutSpec
from tests.unit.millrace.canary.test_polls import BEGIN, Log

AT = datetime.fromtimestamp(BEGIN / 1e6, UTC)
SPEC = RolloutSpec.model_validate(
    {
        "steps": [
            {"share": 0.25, "min_requests": 200, "min_seconds": 3},
            {"share": 0.5, "min_requests": 300, "min_seconds": 3},
        ]
    }
)


def entry(seconds: float, **detail: Any) -> Entry:
    return Entry(7, AT + timedelta(seconds=seconds), "tiny", "kind", "2", "run", detail, "digest")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with closing(Log(tmp_path)) as made:
        yield made


@pytest.fixture
def rollout() -> Rollout:
    """Begun at second 0; its first step at second 0, too."""
    begun = entry(0, package="digest-2", champion="1", serving=3, rules=SPEC.model_dump(mode="json"), promotion={})
    return Rollout(begun, {0: entry(0)})


def traffic(log: Log, start: float, seconds: float, share: float, rng: random.Random, failing: float = 0.0) -> None:
    """A hundred requests a second, half of which get an outcome."""
    for number in range(round(seconds * 100)):
        at = round((start + number / 100) * 1e6)
        version, name = "2" if rng.random() < share else "1", f"{start}-{number}"
        if version == "2" and rng.random() < failing:
            log.fail(name, version, at)
            continue
        log.answer(name, version, at, [rng.random()], rng.expovariate(500))
        if number % 2:
            log.outcome(name, float(rng.random() < 0.5))


def watch(log: Log, rollout: Rollout) -> CanaryWatch:
    return CanaryWatch(rollout, log.label, log.folder)


def now(seconds: float) -> float:
    return BEGIN / 1e6 + seconds


def test_it_advances_by_what_it_saw_and_again_later(log: Log, rollout: Rollout) -> None:
    rng = random.Random(3)
    with closing(watch(log, rollout)) as live:
        live.enter(rollout, 0)
        decision = live.look(now(0.2))
        for second in range(20):
            traffic(log, second, 1, 0.25, rng)
            if (decision := live.look(now(second + 1))).move != "hold":
                break
        assert decision.move == "advance"
        seconds = (live.until - BEGIN) / 1e6
        assert seconds == pytest.approx(3.5), "half a second for the clocks, and the step's three"
        assert live.test.step_requests == pytest.approx(300, abs=5)
        gone_on = Rollout(
            rollout.begun,
            {0: rollout.shares[0], 1: entry(second + 2)},
            {0: entry(second + 1, move="advance", reason="", until=live.until)},
        )
        live.enter(gone_on, 1)
        assert live.test.step == 1
        traffic(log, second + 2, 2.2, 0.5, rng)
        live.look(now(second + 4.4))
        log.rotate()
        with closing(watch(log, gone_on)) as late:
            late.enter(gone_on, 1)
            late.look(now(second + 4.4))
            assert late.until == live.until
            ours, theirs = live.test.state(), late.test.state()
            # An outcome has no time of arrival; all else is the same to the last bit.
            ours["tests"].pop("quality"), theirs["tests"].pop("quality")
            assert ours == theirs


def test_a_breach_is_found_and_stays_one(log: Log, rollout: Rollout) -> None:
    traffic(log, 0, 5, 0.25, random.Random(4), failing=1.0)
    for seconds in (4.0, 5.0):
        with closing(watch(log, rollout)) as found:
            found.enter(rollout, 0)
            decision = found.look(now(seconds))
            assert decision.move == "roll back"
            assert decision.reason.startswith("failures: breach")


def test_what_has_no_data_is_named(log: Log, rollout: Rollout) -> None:
    with closing(watch(log, rollout)) as found:
        found.enter(rollout, 0)
        assert found.look(now(5)).move == "hold"
        assert found.without_data == ["failures", "latency", "predictions", "quality"]


def test_outcomes_are_read_only_for_the_quality_test(log: Log, rollout: Rollout) -> None:
    traffic(log, 0, 6, 0.25, random.Random(5))
    for tests, num_losses in ((["failures", "quality"], 200), (["failures"], 0)):
        rules = {"steps": [{"share": 0.25, "min_requests": 10_000}], "tests": tests}
        begun = replace(rollout.begun, detail={**rollout.begun.detail, "rules": rules})
        with closing(watch(log, Rollout(begun, rollout.shares))) as found:
            found.enter(rollout, 0)
            found.look(now(6))
            compared = {each.metric: each.num_canary + each.num_primary for each in found.test.findings()}
            assert compared.get("quality", 0) >= num_losses
            assert ("quality" in compared) is bool(num_losses)
            assert found.without_data == []


def test_a_damaged_line_is_told_and_the_next_look_goes_on_behind_it(log: Log, rollout: Rollout) -> None:
    with closing(watch(log, rollout)) as found:
        found.enter(rollout, 0)
        traffic(log, 0.6, 0.3, 0.25, random.Random(6))
        (segment,) = (log.folder / ANSWERS).glob("*.jsonl")
        found.look(now(1))
        with segment.open("ab") as file:
            file.write(b"{no json\n")
        with pytest.raises(DataError, match="damaged"):
            found.look(now(1.5))
        traffic(log, 1.6, 1, 0.25, random.Random(6))
        found.look(now(3))
        assert found.test.step_requests > 90


def test_a_damaged_line_in_an_earlier_step_keeps_nobody_from_the_next(log: Log, rollout: Rollout) -> None:
    traffic(log, 0.6, 3, 0.25, random.Random(7))
    gone_on = Rollout(
        rollout.begun,
        {0: rollout.shares[0], 1: entry(4)},
        {0: entry(3.6, move="advance", reason="", until=BEGIN + 3_500_000)},
    )
    (segment,) = (log.folder / ANSWERS).glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b"{no json\n")
    with closing(watch(log, gone_on)) as found:
        with pytest.raises(DataError):
            found.enter(gone_on, 1)
        found.enter(gone_on, 1)
        assert found.test.step == 1
        traffic(log, 4.6, 2, 0.5, random.Random(8))
        found.look(now(7))
        assert found.test.step_requests > 180
