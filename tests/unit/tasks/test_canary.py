"""A rollout from its begin to its end: the real flow, ledger, log and tests; Serve, MLflow and time are doubles."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path
from typing import Any

import prefect.runtime.flow_run
import pytest

from flows.rollout import rollout as rollout_flow
from millrace import rollouts
from millrace.errors import ConflictError, DigestError, PackageError, ServiceError
from millrace.inference_log import inference_folder
from millrace.ledger import TRAFFIC, Fact, Token, journal
from millrace.pipeline import Pipeline
from millrace.rollouts import DECIDED, ENDED, Rollout
from millrace.settings import Settings
from millrace.spec import RolloutSpec
from millrace.traffic_rules import TrafficChange, TrafficRules
from tasks import artifacts, canary, champion, rollout, traffic
from tasks.rollout import REFUSED, roll_back
from tasks.run import open_run
from tasks.slots import holding
from tests.unit.millrace.canary.test_polls import BEGIN, Log
from tests.unit.tasks.test_rollback import World

# A hundred ask in a second, and one may fall on either side of its end: the steps end amid one, so after four and five.
STEPS = [{"share": 0.2, "min_requests": 350, "min_seconds": 2}, {"share": 0.5, "min_requests": 450, "min_seconds": 2}]
RUN = "flow-1"

#: What a version does with a request: None when it fails, else its seconds and its prediction.
Behaviour = Callable[[str, random.Random], tuple[float, float] | None]


class Killed(BaseException):
    """The process is gone."""


class Callers:
    """Ask a hundred times a second, on a clock that stands still between two looks of the rollout."""

    def __init__(self, world: World, log: Log) -> None:
        self.world, self.log, self.now = world, log, time.time()
        self.rng = random.Random(1)
        self.behave: Behaviour = sound
        self.happens: dict[int, Callable[[], None]] = {}
        self.looks = 0

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        for number in range(50):
            self.ask(self.now + seconds * number / 50)
        self.now += seconds
        self.looks += 1
        if (happens := self.happens.pop(self.looks, None)) is not None:
            happens()

    def ask(self, at: float) -> None:
        rules = self.world.plans[-1].rules if self.world.plans else TrafficRules.only("3")
        version = rules.version_of("", "", str(at), self.rng.random())
        did, micros = self.behave(version, self.rng), round(at * 1e6) - BEGIN
        name = f"{self.rng.random()}"
        if did is None:
            self.log.fail(name, version, micros)
        else:
            self.log.answer(name, version, micros, [did[1]], did[0])


def sound(version: str, rng: random.Random) -> tuple[float, float] | None:
    return 0.001 + rng.expovariate(1000), rng.random()


def failing(version: str, rng: random.Random) -> tuple[float, float] | None:
    return None if version == "4" else sound(version, rng)


def other(version: str, rng: random.Random) -> tuple[float, float] | None:
    return 0.002, rng.random() ** (3 if version == "4" else 1)


def slow(version: str, rng: random.Random) -> tuple[float, float] | None:
    found = sound(version, rng)
    return found and (found[0] * (3 if version == "4" else 1), found[1])


@pytest.fixture
def world(
    tmp_path: Path, local_settings: Settings, write_pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> World:
    write_pipeline(tmp_path, change={"rollout": {"steps": STEPS}})
    for name, value in local_settings.environment().items():
        monkeypatch.setenv(name, value)
    world = World(local_settings)
    world.url = lambda version: "http://mlflow"  # type: ignore[attr-defined]
    for module in (rollout, champion, traffic):
        monkeypatch.setattr(module, "Registry", lambda _: world)
    monkeypatch.setattr(rollout, "connect", lambda _: None)
    monkeypatch.setattr(canary, "get_ready", lambda _: None)
    monkeypatch.setattr(rollout, "deploy", world.deploy)
    return world


@pytest.fixture
def callers(world: World, local_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callers]:
    """Callers, their clock in the place of all others, and flow runs that are always the same one."""
    with closing(Log(inference_folder(local_settings, "tiny"))) as log:
        made = Callers(world, log)

        class Now(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.fromtimestamp(made.now, tz)

        monkeypatch.setattr(journal, "datetime", Now)
        monkeypatch.setattr(canary, "Conductor", partial(canary.Conductor, clock=made.clock, pause=made.pause))
        monkeypatch.setattr(prefect.runtime.flow_run, "get_id", lambda: RUN)
        yield made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The artifacts that were made."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **given: made.append(given))
    return made


@pytest.fixture
def begun(world: World, callers: Callers, told: list[dict[str, Any]]) -> Rollout:
    """The rollout of version 4 beside version 3."""
    return begin(world)


def begin(world: World, version: str = "4", **rules: Any) -> Rollout:
    spec = RolloutSpec.model_validate({"steps": STEPS} | rules)
    why = {"package": f"digest-{version}", "reasons": ["better"], "champion_before": "3", "approval": None}
    token = world.ledger.slots.take("tiny", "serving", "training-1")
    assert isinstance(token, Token)
    found = rollouts.begin(world.ledger, version, world.serving, spec, why, token)
    world.ledger.slots.release(token)
    return found


def play(version: str | None = None) -> dict[str, Any]:
    """One life of the flow run."""
    return dict(rollout_flow.fn("tiny", version))


def shares(world: World) -> list[float | None]:
    """The canary's shares, as replicas were told."""
    return [plan.rules.canary and plan.rules.canary.share for plan in world.plans]


def test_a_good_version_goes_all_the_way(world: World, begun: Rollout, told: list[dict[str, Any]]) -> None:
    found = play("4")
    assert found["outcome"] == "promoted"
    assert shares(world) == [0.2, 0.5, None]
    assert world.plans[-1].is_alone
    assert (world.serving.subject, world.aliases) == ("4", ["4"])
    promoted = world.ledger.entry(world.serving.detail["because"])
    assert promoted is not None
    assert (promoted.kind, promoted.detail["rollout"]) == ("promoted", begun.id)
    assert promoted.detail["reasons"] == ["better"]
    done = rollouts.again(world.ledger, begun)
    assert [entry.detail["move"] for entry in done.decisions.values()] == ["advance", "complete"]
    assert done.outcome == "promoted"
    assert world.ledger.slots.holder("tiny", "serving") is None
    assert done.decisions[1].detail["verdict"]["without_data"] == ["quality"], "no outcome has come"
    assert found["reasons"][0].endswith("without a breach; nothing to compare for quality")
    states = [made["description"] for made in told if made["key"] == "tiny-canary"]
    assert "step 1 of 2" in states[0]
    assert "promoted" in states[-1]
    assert "e-value" in told[0]["markdown"]
    # Said again, as by a flow run that was killed at its very end, it changes nothing.
    moves = len(world.plans)
    assert play("4") == found
    assert len(world.plans) == moves


_LONG = {"steps": [{"share": 0.5, "min_requests": 5_000}], "tests": ["latency"], "alpha": 0.05}


@pytest.mark.parametrize(
    ("behave", "metric", "rules"), [(failing, "failures", {}), (other, "predictions", {}), (slow, "latency", _LONG)]
)
@pytest.mark.usefixtures("told")
def test_a_bad_one_is_taken_off(
    world: World, callers: Callers, behave: Behaviour, metric: str, rules: dict[str, Any]
) -> None:
    callers.behave, begun = behave, begin(world, **rules)
    found = play()
    assert found["outcome"] == "rejected"
    assert found["reasons"][0].startswith(f"{metric}: breach")
    assert shares(world)[-1] is None
    assert world.plans[-1].primary.version == world.serving.subject == "3"
    (refused,) = world.ledger.entries("tiny", REFUSED, subject="4")
    assert refused.detail["reasons"] == found["reasons"]
    done = rollouts.again(world.ledger, begun)
    decision = done.decisions[max(done.decisions)]
    test = decision.detail["verdict"]["evidence"]["tests"][metric]
    assert test["p_value"] <= test["alpha"]
    assert {"lower", "upper", "e_value"} <= set(test)
    off = world.ledger.entries("tiny", TRAFFIC)[-1]
    assert (off.at - decision.at).total_seconds() < 2
    assert not rollouts.going_on(world.ledger)


def test_a_killed_one_leaves_the_traffic_and_goes_on_as_if_nothing_had_happened(
    world: World, callers: Callers, begun: Rollout
) -> None:
    def kill() -> None:
        raise Killed

    callers.happens = {3: kill, 7: kill, 15: kill}  # twice in the first step, once in the second
    for _ in range(3):
        given = shares(world)
        with pytest.raises(Killed):
            play()
        assert world.ledger.slots.holder("tiny", "serving") is None
        assert shares(world)[: len(given)] == given
    assert shares(world) == [0.2, 0.5], "a share is given once"
    assert play()["outcome"] == "promoted"
    assert shares(world) == [0.2, 0.5, None]
    tests = rollouts.again(world.ledger, begun).decisions[1].detail["verdict"]["evidence"]["tests"]
    # Killed or not: the same polls make the same evidence.
    counted = tests["failures"]["num_canary"] + tests["failures"]["num_primary"]
    assert counted > 600


@pytest.mark.parametrize("point", ["divide", "append", "serve"])
def test_it_goes_on_after_a_kill_at_any_write(
    world: World, begun: Rollout, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Each time the ledger is written, the process is killed once before and once after."""
    struck: set[tuple[int, str]] = set()
    real = getattr(world.ledger.__class__, point)
    calls = [0]

    def strike(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        number = calls[0]
        if (number, "before") not in struck:
            struck.add((number, "before"))
            raise Killed
        done = real(*given, **named)
        if (number, "after") not in struck:
            struck.add((number, "after"))
            raise Killed
        return done

    monkeypatch.setattr(world.ledger.__class__, point, strike)
    for _ in range(60):
        calls[0] = 0
        try:
            found = play()
            break
        except Killed:
            continue
    assert found["outcome"] == "promoted"
    assert len(struck) >= 2
    assert (world.serving.subject, world.aliases[-1]) == ("4", "4")
    monkeypatch.setattr(world.ledger.__class__, point, real)
    assert len(world.ledger.entries("tiny", "promoted", subject="4")) == 1
    assert len(world.ledger.entries("tiny", "serving", subject="4")) == 1
    assert [entry.detail["once"] for entry in world.ledger.entries("tiny", TRAFFIC)] == [
        begun.once(0), begun.once(1)
    ]  # fmt: skip
    assert len(world.ledger.entries("tiny", ENDED)) == 1


def test_a_kill_between_verdict_and_traffic_takes_the_canary_off_in_the_next_life(
    world: World, callers: Callers, begun: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers.behave = failing
    real = canary.conclude

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("flows.rollout.conclude", killed)
    with pytest.raises(Killed):
        play()
    assert shares(world) == [0.2]
    monkeypatch.setattr("flows.rollout.conclude", real)
    looks = callers.looks
    assert play()["outcome"] == "rejected"
    assert shares(world) == [0.2, None]
    assert callers.looks == looks, "what was decided is not judged again"


def test_a_later_life_does_the_slow_things_before_it_judges(
    world: World, callers: Callers, begun: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        raise Killed

    ready: list[int] = []
    monkeypatch.setattr(canary, "get_ready", lambda _: ready.append(callers.looks))
    callers.happens = {3: kill}
    with pytest.raises(Killed):
        play()
    assert ready == [], "the change of a share has done them"
    play()
    assert ready == [3]


def person_rolls_back(world: World) -> None:
    with open_run("rollback", "tiny", run_id="local-back") as opened, holding(opened, "serving") as run:
        roll_back(run, None, "person:me")


def person_divides(world: World) -> None:
    with open_run("traffic", "tiny", run_id="local-split") as opened, holding(opened, "serving") as run:
        traffic.change_traffic(run, TrafficChange(pins={"acme": "3"}), "person:me")


@pytest.mark.parametrize(
    ("decides", "why"),
    [
        (person_rolls_back, "version 2 serves by now, rolled back by person:me"),
        (person_divides, "the traffic was changed by person:me"),
    ],
)
def test_who_decides_meanwhile_ends_it_and_is_named(
    world: World, callers: Callers, begun: Rollout, decides: Callable[[World], None], why: str
) -> None:
    callers.happens = {3: lambda: decides(world)}
    found = play()
    assert (found["outcome"], found["reasons"]) == ("superseded", [why])
    assert shares(world)[-1] is None, "nobody judges it any more"
    assert world.serving.subject == ("2" if decides is person_rolls_back else "3")
    assert world.plans[-1].rules.pins == ({} if decides is person_rolls_back else {"acme": "3"})
    assert not world.ledger.entries("tiny", REFUSED)


def test_who_decided_before_it_began_is_not_overruled(world: World, begun: Rollout) -> None:
    person_rolls_back(world)
    plans = len(world.plans)
    assert play()["outcome"] == "superseded"
    assert len(world.plans) == plans
    assert world.serving.subject == "2"


def test_a_breach_that_comes_too_late_touches_nothing(world: World, callers: Callers, begun: Rollout) -> None:
    """Decided, but somebody promoted or rolled back before the traffic was changed."""
    callers.behave = failing
    append = world.ledger.__class__.append

    def and_rolled_back(ledger: Any, *facts: Fact, **named: Any) -> Any:
        done = append(ledger, *facts, **named)
        if facts[0].kind == DECIDED:
            person_rolls_back(world)
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.ledger.__class__, "append", and_rolled_back)
        found = play()
    assert found["outcome"] == "rejected", "what was found is kept"
    assert (world.serving.subject, shares(world)) == ("2", [0.2, None])


def test_a_newer_version_supersedes_it(world: World, callers: Callers, begun: Rollout) -> None:
    callers.happens = {3: lambda: begin(world, "2")}
    found = play("4")
    assert found["outcome"] == "superseded"
    assert "version 2 is better" in found["reasons"][0]
    assert [entry.subject for entry in rollouts.going_on(world.ledger)] == ["2"]
    callers.happens = {}
    assert play("2")["outcome"] == "promoted"
    assert world.serving.subject == "2"


def test_a_late_life_of_an_old_rollout_leaves_the_new_one_alone(world: World, callers: Callers, begun: Rollout) -> None:
    callers.happens = {3: lambda: (_ for _ in ()).throw(Killed())}
    with pytest.raises(Killed):
        play("4")
    newer = begin(world, "2")
    callers.happens = {callers.looks + 3: lambda: (_ for _ in ()).throw(Killed())}
    with pytest.raises(Killed):
        play("2")
    assert play("4")["outcome"] == "superseded"
    assert (
        world.plans[-1].rules.canary
        == TrafficRules.from_json(rollouts.again(world.ledger, newer).shares[0].detail["rules"]).canary
    )


def test_pins_and_shares_end_when_it_begins(world: World, begun: Rollout) -> None:
    with open_run("traffic", "tiny", run_id="local-split") as opened, holding(opened, "serving") as run:
        wanted = TrafficChange(shares={"3": 0.5, "2": 0.5}, pins={"acme": "1"})
        traffic.change_traffic(run, wanted, "person:me")
    play()
    (_, first, *_) = world.plans
    assert first.rules.answering == {"3", "4"}
    assert first.rules.pins == {}


@pytest.mark.parametrize("error", [PackageError("takes other requests"), DigestError("damaged")])
def test_a_version_that_cannot_be_served_ends_it(world: World, begun: Rollout, error: Any) -> None:
    world.error = error
    with pytest.raises(type(error)):
        play()
    done = rollouts.again(world.ledger, begun)
    assert (done.outcome, world.plans) == ("failed", [])
    assert world.serving.subject == "3"
    assert play()["outcome"] == "failed"


def test_a_cluster_that_is_away_does_not_end_it(world: World, begun: Rollout) -> None:
    world.error = ServiceError("Serve is away")
    with pytest.raises(ServiceError):
        play()
    assert rollouts.again(world.ledger, begun).ended is None
    world.error = None
    assert play()["outcome"] == "promoted"


def test_another_package_under_the_same_number_is_not_promoted(
    world: World, begun: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = world.version

    def swapped(pipeline: str, number: str) -> Any:
        found = version(pipeline, number)
        decided = rollouts.again(world.ledger, begun).decisions
        return replace(found, package_digest="other") if number == "4" and 1 in decided else found

    monkeypatch.setattr(world, "version", swapped)
    with pytest.raises(DigestError, match="not the package that was rolled out"):
        play()
    assert shares(world) == [0.2, 0.5]
    assert world.serving.subject == "3"


def test_without_a_rollout_there_is_nothing_to_do(world: World, callers: Callers) -> None:
    with pytest.raises(ConflictError, match="no rollout of a version of 'tiny' has begun"):
        play()


def test_a_ui_that_is_away_keeps_nobody_from_judging(
    world: World, begun: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise ServiceError("Prefect is away")

    monkeypatch.setattr(artifacts, "note", away)
    assert play()["outcome"] == "promoted"
