"""A rollback that was asked for happens once, or changes nothing and says why; trainings meanwhile judge again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.errors import ConfigError, ConflictError, DigestError, MillraceError, ServiceError, UnknownNameError
from millrace.ledger import Fact, Ledger, Token
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from ray_jobs.serve.deploy import Deployed
from ray_jobs.serve.plan import TrafficPlan
from tasks import champion, rollback_requests, rollout
from tasks.registry import Version
from tasks.rollback import perform
from tasks.rollback_requests import ENDED, RollbackRequest, end, new_id, outcome_of, pending
from tasks.rollout import ROLLED_BACK, roll_back, settle
from tasks.run import open_run
from tasks.run_kinds import PROMOTED
from tasks.slots import holding
from tasks.standby import Standby


class World:
    """Pipeline `tiny` with versions 1, 2 and 3; the last serves. Serve and MLflow are lists of what they were told."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.ledger = settings, Ledger(settings.ledger)
        self.deployed: list[str] = []
        self.plans: list[TrafficPlan] = []
        self.aliases: list[str] = []
        self.error: MillraceError | None = None
        for version in ("1", "2", "3"):
            self.serve(version)

    def serve(self, version: str) -> None:
        token = self.ledger.slots.take("tiny", "serving", "run")
        assert isinstance(token, Token)
        because = self.ledger.decide("tiny", "promoted", version, {})
        self.ledger.serve("tiny", version, f"digest-{version}", because=because, token=token)
        self.ledger.slots.release(token)

    @property
    def serving(self) -> Any:
        return self.ledger.serving("tiny")

    def url(self, version: Version) -> str:
        return f"http://registry/{version.version}"

    def version(self, pipeline: str, number: str) -> Version:
        if number not in ("1", "2", "3", "4"):
            raise UnknownNameError(f"no version {number}")
        return Version(pipeline, number, f"key-{number}", f"digest-{number}", (), 0.0, "", {})

    def set_alias(self, version: Version, alias: str) -> None:
        self.aliases.append(version.version)

    def deploy(self, _settings: Any, name: str, plan: TrafficPlan, prove: Callable[[], None]) -> Deployed:
        if self.error is not None:
            raise self.error
        prove()
        self.plans.append(plan)
        self.deployed.append(plan.primary.version)
        return Deployed(name, plan.primary.version, "http://here", 0.1, 1)

    def ask(self, **change: Any) -> RollbackRequest:
        request = RollbackRequest(**({"id": new_id(), "pipeline": "tiny", "requested_by": "person:me"} | change))
        self.ledger.append(request.fact())
        return request


@pytest.fixture
def world(
    tmp_path: Path, local_settings: Settings, write_pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> World:
    write_pipeline(tmp_path)
    for name, value in local_settings.environment().items():
        monkeypatch.setenv(name, value)
    world = World(local_settings)
    for module in (rollout, champion):
        monkeypatch.setattr(module, "Registry", lambda _: world)
    monkeypatch.setattr(rollout, "connect", lambda _: None)
    monkeypatch.setattr(rollout.artifacts, "rollout", lambda *_: None)
    monkeypatch.setattr(rollout, "deploy", world.deploy)
    return world


def test_the_standby_does_what_was_asked_once(world: World) -> None:
    request = world.ask(reason="it is slow")
    standby = Standby(world.settings, world.ledger)
    standby.tick()
    standby.tick()
    assert (world.deployed, world.aliases, world.serving.subject) == (["2"], ["2"], "2")
    (decision,) = world.ledger.entries("tiny", ROLLED_BACK)
    assert dict(decision.detail) == {"from": "3", "to": "2", "requested_by": "person:me", "reason": "it is slow"}
    outcome = outcome_of(world.ledger, request)
    assert outcome is not None
    assert outcome["version"] == "2"
    assert world.ledger.slots.holder("tiny", "serving") is None


def test_two_requests_go_back_two_versions_and_one_said_twice_goes_back_one(world: World) -> None:
    standby = Standby(world.settings, world.ledger)
    for name in ("a", "b", "b"):
        world.ask(id=new_id(name))
        standby.tick()
    assert world.deployed == ["2", "1"]


def test_a_guard_that_was_overtaken_changes_nothing(world: World) -> None:
    watched = world.serving.sequence
    guard = {"requested_by": "guard", "to_version": "2", "only_while": watched}
    world.serve("4")
    request = world.ask(**guard)
    Standby(world.settings, world.ledger).tick()
    assert (world.deployed, world.serving.subject) == ([], "4")
    with pytest.raises(ConflictError, match="version 4 of 'tiny' serves by now"):
        outcome_of(world.ledger, request)


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({}, DigestError("the package is damaged"), DigestError),
        ({"to_version": "9"}, None, UnknownNameError),
        ({}, ServiceError("Serve is away"), ServiceError),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_is_told(
    world: World, change: dict[str, Any], error: MillraceError | None, expected: type[MillraceError]
) -> None:
    world.error = error
    request = world.ask(**change)
    Standby(world.settings, world.ledger).tick()
    with pytest.raises(expected):
        outcome_of(world.ledger, request)
    assert (world.deployed, world.aliases, world.serving.subject) == ([], [], "3")
    assert world.ledger.slots.holder("tiny", "serving") is None


def test_without_a_version_before_it_is_refused(world: World) -> None:
    standby = Standby(world.settings, world.ledger)
    for _ in range(2):
        world.ask()
        standby.tick()
    request = world.ask()
    standby.tick()
    with pytest.raises(ConflictError, match="served no version before 1"):
        outcome_of(world.ledger, request)
    assert world.serving.subject == "1"


def test_the_guards_request_is_tried_until_it_is_done(world: World) -> None:
    now = 0.0
    standby = Standby(world.settings, world.ledger, clock=lambda: now)
    request = world.ask(requested_by="guard", only_while=world.serving.sequence)
    world.error = ServiceError("Serve is away")
    standby.tick()
    world.error = None
    standby.tick()
    assert world.deployed == []
    now = 10.0
    standby.tick()
    assert world.deployed == ["2"]
    assert outcome_of(world.ledger, request) is not None


def test_a_request_is_pending_until_somebody_works_on_it_or_ends_it(world: World) -> None:
    request = world.ask()
    assert pending(world.ledger) == [request]
    beat = world.ledger.heartbeats.begin(request.id, "rollback", "tiny")
    assert pending(world.ledger) == []
    world.ledger.heartbeats.end(beat)
    assert pending(world.ledger) == [request]
    end(world.ledger, request, {"version": "2"})
    assert pending(world.ledger) == []
    assert len(world.ledger.entries("tiny", ENDED)) == 1


def test_it_goes_on_after_a_kill_between_the_decision_and_the_alias(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    request = world.ask()
    with monkeypatch.context() as patched:
        patched.setattr(world, "set_alias", killed)
        with pytest.raises(Killed):
            perform(request)
    assert (world.serving.subject, world.aliases) == ("2", [])
    # The same run takes the slot again; a request that went one version further would be wrong.
    perform(request)
    assert (world.serving.subject, world.aliases) == ("2", ["2"])
    assert len(world.ledger.entries("tiny", ROLLED_BACK)) == 1


def test_a_rollback_that_goes_on_late_does_not_undo_what_was_promoted_since(world: World) -> None:
    request = world.ask(requested_by="guard", only_while=world.serving.sequence)
    perform(request)
    # It was killed before it said that it had ended, and another run took the slot meanwhile.
    world.serve("4")
    world.aliases.clear()
    perform(request)
    assert (world.serving.subject, world.deployed[-1], world.aliases) == ("4", "4", [])
    assert outcome_of(world.ledger, request) is not None


def test_a_training_that_goes_on_late_does_not_undo_a_rollback(world: World) -> None:
    evaluation: Any = SimpleNamespace(
        champion_version="3",
        verdict=SimpleNamespace(passed=True, reasons=(), summary="better"),
        metrics={"challenger": {"roc_auc": 0.9}},
        window=SimpleNamespace(as_dict=dict),
    )
    with open_run("training", "tiny", run_id="local-training") as run:
        assert settle(run, world.version("tiny", "4"), evaluation) == PROMOTED
        # It was killed before it noted its end; a person rolled back before it went on.
        perform(world.ask())
        assert world.serving.subject == "3"
        assert settle(run, world.version("tiny", "4"), evaluation) == PROMOTED
    assert (world.serving.subject, world.deployed) == ("3", ["4", "3"])


@pytest.mark.parametrize("requested_by", ["x" * 200, "person:\n"])
def test_who_cannot_be_recorded_moves_no_traffic(world: World, requested_by: str) -> None:
    with (
        pytest.raises(ConfigError, match="cannot take the actor"),
        open_run("rollback", "tiny", run_id="local-1") as opened,
        holding(opened, "serving") as run,
    ):
        roll_back(run, None, requested_by)
    assert (world.deployed, world.serving.subject) == ([], "3")


def test_it_does_not_wait_for_a_training_which_must_judge_again(world: World) -> None:
    training = world.ledger.slots.take("tiny", "training", "local-training")
    assert isinstance(training, Token)
    evaluation: Any = SimpleNamespace(champion_version="3", verdict=SimpleNamespace(passed=True, reasons=()))
    Standby(world.settings, world.ledger).tick()
    world.ask()
    Standby(world.settings, world.ledger).tick()
    assert world.serving.subject == "2"
    assert world.ledger.slots.holder("tiny", "training") == "local-training"
    with open_run("training", "tiny", run_id="local-training") as run:
        assert settle(run, world.version("tiny", "4"), evaluation) is None
    assert (world.deployed, world.serving.subject) == (["2"], "2")


def test_looking_for_requests_costs_nothing_however_many_there_were(world: World) -> None:
    done = [RollbackRequest(new_id(str(number)), "tiny", "person:me") for number in range(1000)]
    world.ledger.append(*(request.fact() for request in done))
    world.ledger.append(*(Fact("tiny", ENDED, request.id, {"version": "2"}, once=request.id) for request in done))
    request = world.ask()
    started = time.process_time()
    for _ in range(20):
        assert pending(world.ledger) == [request]
    assert time.process_time() - started < 0.5


def test_a_guards_request_waits_as_long_as_it_must_and_a_persons_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ask()
    guard = world.ask(requested_by="guard", only_while=world.serving.sequence)
    monkeypatch.setattr(rollback_requests, "STALE_SECONDS", -60.0)
    assert pending(world.ledger) == [guard]
