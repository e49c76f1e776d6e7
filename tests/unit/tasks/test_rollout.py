"""What becomes of an accepted challenger: all traffic at once, or a rollout, where the spec asks for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millrace import rollouts
from millrace.approvals import approvers, requests
from millrace.approvals.code import sign
from millrace.approvals.keys import PrivateKey
from millrace.errors import ApprovalError
from millrace.ledger import Token
from millrace.pipeline import Pipeline
from millrace.rollouts import BEGUN
from millrace.settings import Settings
from tasks import approval, artifacts, champion, rollout
from tasks.outcome import known_champion
from tasks.rollout import REFUSED, ROLLING_OUT, approved_version, settle
from tasks.run import Run, open_run
from tasks.run_kinds import PROMOTED
from tests.unit.tasks.test_approval import evaluation
from tests.unit.tasks.test_rollback import World

STEPS = {"steps": [{"share": 0.5, "min_requests": 10}]}
PASSED = replace(evaluation(), champion_version="3")


@pytest.fixture
def make_world(
    tmp_path: Path, local_settings: Settings, write_pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., World]:
    def make(**sections: Any) -> World:
        write_pipeline(tmp_path, change=sections)
        for name, value in local_settings.environment().items():
            monkeypatch.setenv(name, value)
        world = World(local_settings)
        world.url = lambda version: "http://mlflow"  # type: ignore[attr-defined]
        for module in (rollout, champion, approval):
            monkeypatch.setattr(module, "Registry", lambda _: world)
        monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **_: None)
        monkeypatch.setattr(rollout, "connect", lambda _: None)
        monkeypatch.setattr(rollout, "deploy", world.deploy)
        return world

    return make


def train(world: World, run: str = "local-1", version: str = "4", found: Any = PASSED) -> str | None:
    """The end of a training that has made `version`."""
    with open_run("training", "tiny", run_id=run) as opened:
        return settle(opened, world.version("tiny", version), found)


def finish(world: World, outcome: Any, version: str = "4") -> None:
    found = rollouts.find(world.ledger, "tiny", version)
    world.ledger.append(rollouts.ending(found, outcome, "run", ["because"]))


def test_without_the_section_it_serves_at_once(make_world: Callable[..., World]) -> None:
    world = make_world()
    assert train(world) == PROMOTED
    assert world.serving.subject == "4"
    assert not world.ledger.entries("tiny", BEGUN)


def test_with_it_a_rollout_begins_and_nothing_is_served_yet(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS)
    before = world.serving
    assert train(world) == ROLLING_OUT
    assert (world.serving, world.plans) == (before, [])
    found = rollouts.find(world.ledger, "tiny")
    assert (found.version, found.champion, found.serving) == ("4", "3", before.sequence)
    assert found.package == "digest-4"
    assert [step.share for step in found.spec.steps] == [0.5]
    assert found.promotion["reasons"] == ["better"]
    assert found.promotion["champion_before"] == "3"


def test_the_first_version_has_nothing_beside_it(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "serve", lambda *_: None)
    world = make_world(rollout=STEPS)
    assert train(world, found=replace(PASSED, champion_version=None)) == PROMOTED
    assert world.serving.subject == "4"


def test_what_failed_its_gate_is_refused(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS)
    assert train(world, found=replace(evaluation(passed=False), champion_version="3")) == REFUSED
    assert not world.ledger.entries("tiny", BEGUN)


def test_one_rollout_however_often_it_is_asked_for(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS)
    assert [train(world, run) for run in ("local-1", "local-1", "local-2")] == [ROLLING_OUT] * 3
    assert len(world.ledger.entries("tiny", BEGUN)) == 1


@pytest.mark.parametrize(
    ("ended", "then", "number"),
    [("rejected", "rejected", 1), ("failed", "failed", 1), ("stopped", ROLLING_OUT, 2), ("superseded", ROLLING_OUT, 2)],
)
def test_only_what_nothing_was_found_against_begins_anew(
    make_world: Callable[..., World], ended: str, then: str, number: int
) -> None:
    world = make_world(rollout=STEPS)
    train(world, "local-1")
    finish(world, ended)
    assert train(world, "local-1") == ROLLING_OUT, "what this run decided stays decided"
    assert [train(world, "local-2"), train(world, "local-2")] == [then, then]
    assert len(world.ledger.entries("tiny", BEGUN)) == number


def test_beside_another_champion_it_begins_anew(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS)
    train(world)
    finish(world, "rejected")
    world.serve("2")
    assert train(world, "local-2", found=replace(PASSED, champion_version="2")) == ROLLING_OUT
    assert rollouts.find(world.ledger, "tiny").champion == "2"


def test_a_newer_version_supersedes_what_goes_on(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS)
    train(world)
    train(world, "local-2", version="2")
    (going_on,) = rollouts.going_on(world.ledger)
    assert going_on.subject == "2"
    older = rollouts.find(world.ledger, "tiny", "4")
    assert older.outcome == "superseded"
    assert older.ended is not None
    assert older.ended.actor == "local-2"


def test_a_training_that_was_killed_says_the_same_after_the_promotion(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS)
    train(world)
    # The rollout has come to its end before the training's next life.
    world.serve("4")
    with open_run("training", "tiny", run_id="local-1") as opened:
        result: Any = SimpleNamespace(package_digest="digest-4")
        assert known_champion(opened, result) is None
        assert settle(opened, world.version("tiny", "4"), PASSED) == ROLLING_OUT
        other = replace(opened, id="local-2")
        found = known_champion(other, result)
        assert found is not None
        assert found.version == "4"


def test_a_canary_answers_only_with_the_approval_of_its_package(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS, approvals={"promote": True})
    key = PrivateKey.new()
    approvers.add(world.ledger, "alice", key.public, "alice", "alice", key)
    with pytest.raises(ApprovalError, match="nobody was asked"):
        train(world)
    assert not world.ledger.entries("tiny", BEGUN)
    with open_run("training", "tiny", run_id="local-1") as run:
        question = approval._promotion(run, world.version("tiny", "4"), PASSED)
        asked = requests.ask(world.ledger, question, run.pipeline.spec.approvals, run.id).request
        with pytest.raises(ApprovalError, match="never served"):
            approved_version(run, "4")
        requests.decide(world.ledger, asked, sign(asked, "approve", "alice", key, _now()).text)
        _begin(world, run, asked.id)
        assert approved_version(run, "4").version == "4"
        finish(world, "rejected")
        with pytest.raises(ApprovalError, match="never served"):
            approved_version(run, "4")


def test_an_approval_that_nobody_signed_is_none(make_world: Callable[..., World]) -> None:
    world = make_world(rollout=STEPS, approvals={"promote": True})
    with open_run("training", "tiny", run_id="local-1") as run:
        question = approval._promotion(run, world.version("tiny", "4"), PASSED)
        asked = requests.ask(world.ledger, question, run.pipeline.spec.approvals, run.id).request
        _begin(world, run, asked.id)
        with pytest.raises(ApprovalError, match="never served"):
            approved_version(run, "4")


def _begin(world: World, run: Run, approval_id: str) -> None:
    """As `begin_rollout` does; the package itself is no real one here."""
    token = world.ledger.slots.take("tiny", "serving", run.id)
    assert isinstance(token, Token)
    why = {"package": "digest-4", "reasons": [], "champion_before": "3", "approval": approval_id}
    assert run.pipeline.spec.rollout is not None
    rollouts.begin(world.ledger, "4", world.serving, run.pipeline.spec.rollout, why, token)
    world.ledger.slots.release(token)


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)
