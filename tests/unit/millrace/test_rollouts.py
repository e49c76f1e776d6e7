"""The record of rollouts: one goes on at a time, each has one end, and what somebody else decided is seen."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import rollouts
from millrace.canary import RolloutDecision
from millrace.errors import ConflictError, DigestError, FencedError
from millrace.ledger import Entry, Fact, Ledger, Token
from millrace.rollouts import BEGUN, ENDED, Outcome, Rollout
from millrace.spec import RolloutSpec
from millrace.traffic_rules import TrafficChange, TrafficRules, VersionShare

SPEC = RolloutSpec.model_validate(
    {"steps": [{"share": 0.1, "min_requests": 10}, {"share": 0.5, "min_requests": 10}], "alpha": 0.02}
)


class Scene:
    """A ledger in which version 1 serves pipeline `p`."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db")
        taken = self.ledger.slots.take("p", "serving", "run")
        assert isinstance(taken, Token)
        self.token = taken
        self.number = 0
        self.serve("1")

    def serve(self, version: str) -> Entry:
        self.number += 1
        because = self.ledger.decide("p", "promoted", version, {"n": self.number}, actor="person:me")
        return self.ledger.serve("p", version, f"digest-{version}", because=because, token=self.token)

    def begin(self, version: str) -> Rollout:
        serving = self.ledger.serving("p")
        assert serving is not None
        return rollouts.begin(self.ledger, version, serving, SPEC, {"package": f"digest-{version}"}, self.token)

    def end(self, rollout: Rollout, outcome: Outcome) -> Rollout:
        self.ledger.append(rollouts.ending(rollout, outcome, "somebody", ["because"]))
        return rollouts.again(self.ledger, rollout)

    def divide(self, rules: TrafficRules, once: str, actor: str = "run") -> None:
        self.ledger.divide("p", "1", rules, {}, actor=actor, token=self.token, once=once)

    def share(self, rollout: Rollout, step: int) -> None:
        canary = VersionShare(rollout.version, SPEC.steps[step].share)
        self.divide(TrafficChange(canary=canary).of(TrafficRules.only("1")), rollout.once(step))

    def close(self) -> None:
        self.ledger.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with closing(Scene(tmp_path)) as made:
        yield made


_OUTCOMES: list[Outcome] = ["promoted", "rejected", "superseded", "stopped", "failed"]
_MOVES = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from("234")),
    st.tuples(st.just("end"), st.sampled_from(_OUTCOMES)),
    st.tuples(st.just("serve"), st.sampled_from("19")),
)


@settings(max_examples=30)
@given(st.lists(_MOVES, max_size=12))
def test_one_goes_on_at_a_time_and_what_was_found_against_a_version_stays(moves: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as scratch, closing(Scene(Path(scratch))) as scene:
        for move, what in moves:
            if move == "serve":
                scene.serve(what)
            elif move == "end":
                for entry in rollouts.going_on(scene.ledger, "p"):
                    scene.end(Rollout(entry), what)  # type: ignore[arg-type]
            else:
                before = rollouts.newest(scene.ledger, "p", what)
                found, again = scene.begin(what), scene.begin(what)
                assert found == again
                serving = scene.ledger.serving("p")
                assert serving is not None
                assert found.serving == serving.sequence
                if before is not None and before.serving == found.serving and before.outcome in ("rejected", "failed"):
                    assert found == before
        entries = scene.ledger.entries("p", BEGUN)
        read = [rollouts.again(scene.ledger, Rollout(entry)) for entry in entries]
        assert len([each for each in read if each.ended is None]) <= 1
        assert len(scene.ledger.entries("p", ENDED)) == sum(each.ended is not None for each in read)
        same = [(each.version, each.serving) for each in read if each.outcome not in ("superseded", "stopped")]
        assert len(same) == len(set(same))


def test_it_is_read_as_it_was_written(scene: Scene) -> None:
    begun = scene.begin("2")
    assert (begun.spec, begun.package, begun.champion) == (SPEC, "digest-2", "1")
    scene.share(begun, 0)
    decision = RolloutDecision("advance", "enough")
    for move in (decision, RolloutDecision("roll back", "too late")):
        scene.ledger.append(rollouts.decided(begun, 0, move, 5, {}, "run"))
    found = rollouts.again(scene.ledger, begun)
    assert found.decision(0) == decision, "the first stays"
    assert found.decision(1) is None
    assert list(found.shares) == [0]
    done = scene.end(found, "rejected")
    assert scene.end(done, "promoted").outcome == "rejected"
    assert rollouts.find(scene.ledger, "p") == done
    with pytest.raises(ConflictError, match="no rollout of version 3 of 'p'"):
        rollouts.find(scene.ledger, "p", "3")


def test_of_two_rollouts_each_has_its_own(scene: Scene) -> None:
    first = scene.begin("2")
    scene.share(first, 0)
    second = scene.begin("3")
    scene.share(second, 0)
    scene.share(second, 1)
    assert list(rollouts.again(scene.ledger, first).shares) == [0]
    assert list(rollouts.again(scene.ledger, second).shares) == [0, 1]


def test_who_holds_no_slot_begins_nothing(scene: Scene) -> None:
    scene.ledger.slots.release(scene.token)
    with pytest.raises(FencedError):
        scene.begin("2")
    assert rollouts.newest(scene.ledger, "p") is None


def test_what_somebody_else_decided_is_seen(scene: Scene) -> None:
    begun = scene.begin("2")
    scene.divide(TrafficChange(pins={"acme": "1"}).of(TrafficRules.only("1")), "before", "person:me")
    assert rollouts.overtaken(scene.ledger, begun) is None, "what was before it begins it does away with"
    scene.share(begun, 0)
    scene.share(begun, 1)
    assert rollouts.overtaken(scene.ledger, begun) is None
    canary = VersionShare("2", 0.5)
    shadow = TrafficChange(canary=canary, shadow=VersionShare("3", 0.5)).of(TrafficRules.only("1"))
    scene.divide(shadow, "shadow", "person:me")
    assert rollouts.overtaken(scene.ledger, begun) is None, "a shadow answers nobody"
    for number, other in enumerate(
        [
            TrafficChange(pins={"acme": "1"}, canary=canary),
            TrafficChange(shares={"1": 0.5, "3": 0.5}, canary=canary),
            TrafficChange(canary=VersionShare("2", 0.4)),
            TrafficChange(only="1"),
        ]
    ):
        scene.divide(other.of(TrafficRules.only("1")), f"other-{number}", "person:me")
        assert rollouts.overtaken(scene.ledger, begun) == "the traffic was changed by person:me"
        assert rollouts.has_share(scene.ledger, begun) is (other.canary is not None)
    scene.serve("9")
    assert rollouts.overtaken(scene.ledger, begun) == "version 9 serves by now, promoted by person:me"
    assert not rollouts.has_share(scene.ledger, begun)
    scene.end(begun, "stopped")
    assert rollouts.overtaken(scene.ledger, begun) == "stopped by somebody: because"


def test_a_damaged_record_is_told(scene: Scene) -> None:
    serving = scene.ledger.serving("p")
    assert serving is not None
    ((entry, _),) = scene.ledger.append(Fact("p", BEGUN, "2", {"rules": {"steps": []}}))
    with pytest.raises(DigestError, match="cannot be read"):
        _ = Rollout(entry).spec
