"""Whatever lies in the store, signed or not: it is refused with the reason, and nothing of it runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from benchmarks.reliability import hostile
from benchmarks.reliability.artifacts.attack import ANYBODY, Attack
from benchmarks.reliability.artifacts.payloads import Touch
from benchmarks.reliability.artifacts.world import NEW, OPENERS, World

_SIGNERS = {attack.name: attack.signers for attack in hostile.attacks(Path("/nonexistent"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    World.make(folder / "whole")
    return folder


@pytest.fixture(scope="module")
def attacks(root: Path) -> dict[str, Attack]:
    return {attack.name: attack for attack in hostile.attacks(root)}


def test_there_are_enough_of_them() -> None:
    assert len(_SIGNERS) >= 60
    assert sum(signers == ANYBODY for signers in _SIGNERS.values()) >= 60, "most are tried signed and unsigned"


def test_the_payloads_are_no_duds(root: Path) -> None:
    assert set(hostile.live(root)) == set(hostile.payloads.openers())


@pytest.mark.parametrize("opener", [name for name in OPENERS if name != "registered version"])
def test_what_nobody_spoilt_is_opened(opener: str, root: Path) -> None:
    world = World(root / "whole", root / "whole")
    assert OPENERS[opener](world) is not None


@pytest.mark.parametrize("name", _SIGNERS)
def test_a_hostile_artifact_is_refused_with_the_reason(name: str, root: Path, attacks: dict[str, Attack]) -> None:
    for signer in attacks[name].signers:
        assert hostile.attempt(attacks[name], signer, root).flaw is None


def test_a_payload_that_runs_would_be_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: a loader that unpickles is found out."""

    def careless(world: World) -> object:
        return pickle.loads(world.files(NEW)["weights.safetensors"])

    monkeypatch.setitem(OPENERS, "serve", careless)
    payload = pickle.dumps(Touch(root / "pwned"))
    attack = Attack(
        "x", "serve", lambda world, signer: world.forge(NEW, signer, {"weights.safetensors": payload}), ("never",)
    )
    assert hostile.attempt(attack, "the trusted key", root).flaw == "it ran"
