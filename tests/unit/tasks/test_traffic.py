"""Several versions answer by the ledger's rules, until another one serves; what cannot be done changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.errors import ApprovalError, ConfigError, ConflictError, MillraceError, PackageError, UnknownNameError
from millrace.ledger import TRAFFIC, Ledger, Token
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.traffic_rules import TrafficChange, TrafficRules, VersionShare
from ray_jobs.serve.plan import TrafficPlan
from tasks import champion, rollout, serving_watch, traffic
from tasks.endpoint import is_by_ledger
from tasks.rollback_requests import new_id, outcome_of
from tasks.rollout import serve_again
from tasks.run import open_run
from tasks.serving_watch import LOOK_SECONDS, TOLERATED_SECONDS, ServingWatch
from tasks.standby import Standby
from tasks.traffic_requests import TrafficRequest
from tests.unit.tasks.conftest import Clock
from tests.unit.tasks.test_rollback import World

SPLIT = TrafficChange(shares={"3": 0.9, "2": 0.1}, pins={"acme": "1"})


@pytest.fixture
def make_world(
    tmp_path: Path, local_settings: Settings, write_pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    def make(**sections: Any) -> World:
        write_pipeline(tmp_path, change=sections)
        for name, value in local_settings.environment().items():
            monkeypatch.setenv(name, value)
        world = World(local_settings)
        for module in (rollout, champion, traffic):
            monkeypatch.setattr(module, "Registry", lambda _: world)
        monkeypatch.setattr(rollout, "connect", lambda _: None)
        monkeypatch.setattr(rollout, "deploy", world.deploy)
        return world

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def change(world: World, wanted: TrafficChange, request_id: str | None = None) -> dict[str, Any]:
    """What the standby makes of it.

    Raises:
        MillraceError: it cannot be done.
    """
    request = TrafficRequest(request_id or new_id(what="traffic"), "tiny", "person:me", wanted)
    world.ledger.append(request.fact())
    Standby(world.settings, world.ledger).tick()
    outcome = outcome_of(world.ledger, request)
    assert outcome is not None
    return outcome


def test_versions_answer_beside_the_one_that_serves(world: World) -> None:
    outcome = change(world, SPLIT)
    assert outcome["version"] == "3"
    (plan,) = world.plans
    assert [target.version for target in plan.targets] == ["3", "1", "2"]
    assert {target.package_digest for target in plan.targets} == {"digest-1", "digest-2", "digest-3"}
    assert plan.rules == SPLIT.of(TrafficRules.only("3"))
    record = world.ledger.traffic("tiny")
    assert record is not None
    assert (record.rules, dict(record.packages)) == (plan.rules, {"1": "digest-1", "2": "digest-2"})
    assert record.entry.actor == "person:me"
    assert (world.serving.subject, world.aliases) == ("3", []), "the champion stays the champion"
    assert world.ledger.slots.holder("tiny", "serving") is None
    # The next change begins where this one ended.
    change(world, TrafficChange(pins={"acme": None}))
    assert world.plans[-1].rules.division == plan.rules.division
    assert [target.version for target in world.plans[-1].targets] == ["3", "2"]


def test_another_version_that_serves_ends_it(world: World) -> None:
    change(world, SPLIT)
    world.serve("2")
    assert world.ledger.traffic("tiny") is None
    change(world, TrafficChange(shares={"2": 0.5, "3": 0.5}))
    assert world.plans[-1].primary.version == "2"
    assert world.plans[-1].rules.division.shares == {"2": 0.5, "3": 0.5}
    assert world.plans[-1].rules.pins == {}


@pytest.mark.parametrize("to_version", [None, "3"])
def test_a_rollback_leaves_one_version(world: World, to_version: str | None) -> None:
    change(world, SPLIT)
    world.ask(to_version=to_version)
    Standby(world.settings, world.ledger).tick()
    assert world.plans[-1].is_alone
    assert world.plans[-1].primary.version == world.serving.subject == (to_version or "2")
    record = world.ledger.traffic("tiny")
    assert record is None or record.rules.is_only("3")


def test_restore_brings_all_versions_back(world: World) -> None:
    change(world, SPLIT)
    with open_run("restore", "tiny", run_id="local-restore") as run:
        serve_again(run)
    assert world.plans[-1] == world.plans[0]
    assert world.plans[-1].token > world.plans[0].token


def test_a_request_that_is_done_twice_is_done_once(world: World) -> None:
    request = TrafficRequest(new_id(what="traffic"), "tiny", "person:me", SPLIT)
    traffic.perform(request)
    later = TrafficChange(only="3")
    change(world, later)
    traffic.perform(request)
    assert world.plans[-1].is_alone, "what was said later is in force"
    assert len(world.ledger.entries("tiny", TRAFFIC)) == 2


@pytest.mark.parametrize(
    ("wanted", "error", "expected", "message"),
    [
        (TrafficChange(shares={"3": 0.5, "9": 0.5}), None, UnknownNameError, "no version 9"),
        (TrafficChange(shares={"3": 0.5, "2": 0.6}), None, ConfigError, "1 in all"),
        (TrafficChange(pins={"acme": None}), None, ConfigError, "not pinned"),
        (TrafficChange(shadow=VersionShare("3", 0.5)), None, ConfigError, "answer the same"),
        (SPLIT, PackageError("version 2 takes other requests"), PackageError, "other requests"),
    ],
)
def test_what_cannot_be_done_changes_nothing_and_is_told(
    world: World, wanted: TrafficChange, error: MillraceError | None, expected: type[MillraceError], message: str
) -> None:
    world.error = error
    with pytest.raises(expected, match=message):
        change(world, wanted)
    assert (world.plans, world.ledger.traffic("tiny")) == ([], None)
    assert world.ledger.slots.holder("tiny", "serving") is None


def test_where_promotions_are_approved_only_who_served_may_answer(make_world: Callable[..., World]) -> None:
    world = make_world(approvals={"promote": True})
    change(world, SPLIT)
    with pytest.raises(ApprovalError, match="nobody has approved"):
        change(world, TrafficChange(shares={"3": 0.5, "4": 0.5}))


def test_what_was_asked_of_another_version_is_void(world: World, local_settings: Settings) -> None:
    with open_run("traffic", "tiny", run_id="local-x") as run:
        with pytest.raises(ConflictError, match="version 3 serves by now"):
            traffic.change_traffic(run, SPLIT, "canary", only_while=1)
        token = world.ledger.slots.take("tiny", "serving", "local-x")
        assert isinstance(token, Token)
        with pytest.raises(ConflictError, match="another version serves"):
            world.ledger.divide("tiny", "1", TrafficRules.only("1"), {}, actor="me", token=token)


def described(plan: TrafficPlan) -> dict[str, Any]:
    primary = plan.primary
    return {"version": primary.version, "package_digest": primary.package_digest, "traffic": plan.described()}


def test_what_answers_is_compared_with_the_ledger(world: World) -> None:
    ledger = world.ledger
    change(world, TrafficChange(only="3"))
    change(world, SPLIT)
    alone, split = world.plans
    record = ledger.traffic("tiny")
    assert is_by_ledger(described(split), world.serving, record)
    assert not is_by_ledger(described(alone), world.serving, record)
    assert not is_by_ledger(described(split), world.serving, None)
    assert is_by_ledger(described(alone), world.serving, None)
    other = described(split)
    other["traffic"]["versions"]["2"] = "digest-x"
    assert not is_by_ledger(other, world.serving, record)
    older = {name: value for name, value in described(alone).items() if name != "traffic"}
    assert not is_by_ledger(older, world.serving, None)


def test_the_reconciler_puts_right_what_a_zombie_divided(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(world, SPLIT)
    found = described(TrafficPlan.alone(world.plans[-1].primary))
    started: list[str] = []
    answer = httpx.Response(200, json=found)
    monkeypatch.setattr(serving_watch.endpoint, "ask", lambda *_: answer)
    monkeypatch.setattr(ServingWatch, "_alias_agrees", lambda *_: True)
    monkeypatch.setattr(serving_watch, "submit", lambda _, flow, __: started.append(flow))
    watch = ServingWatch(world.settings, world.ledger, clock)
    for _ in range(5):
        watch.tick()
        clock.seconds += max(LOOK_SECONDS, TOLERATED_SECONDS / 2)
    assert started == ["restore/restore"]
    started.clear()
    answer = httpx.Response(200, json=described(world.plans[-1]))
    for _ in range(40):
        watch.tick()
        clock.seconds += LOOK_SECONDS
    assert started == []


def test_rules_are_kept_by_the_ledger_as_they_were_said(world: World) -> None:
    change(world, SPLIT)
    before = world.ledger.traffic("tiny")
    again = Ledger(world.settings.ledger)
    again.verify()
    assert again.traffic("tiny") == before
    assert again.traffic("other") is None


def test_it_goes_on_after_a_kill_between_the_traffic_and_the_ledger(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    request = TrafficRequest(new_id(what="traffic"), "tiny", "person:me", SPLIT)
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "divide", killed)
        with pytest.raises(Killed):
            traffic.perform(request)
    assert world.ledger.traffic("tiny") is None
    traffic.perform(request)
    first, second = world.plans
    assert first == second
    assert second.token > first.token, "the same run under a later token"
    record = world.ledger.traffic("tiny")
    assert record is not None
    assert record.rules == first.rules
