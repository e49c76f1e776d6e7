"""When a peer's environment is used again, and what is pinned in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.peers.environment import REQUIREMENTS, ROOT, PeerError, digest, last_lines, peer_python, pins
from benchmarks.serving.peers.registry import PEERS

PARTS = st.lists(st.text(max_size=5), max_size=4)


@given(PARTS, PARTS)
def test_other_parts_have_another_digest(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_pins_come_from_the_lock() -> None:
    lock = "# torch==1\nnumpy==2.4.6\n    # via torch\ntorch==2.13.0\n"
    assert pins(lock, ("torch", "numpy")) == ["torch==2.13.0", "numpy==2.4.6"]
    with pytest.raises(ValueError, match="does not pin jax"):
        pins(lock, ("torch", "jax"))
    assert len(pins((ROOT / "requirements.lock").read_text(), ("torch", "numpy", "safetensors"))) == 3


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.stem)
def test_each_peers_packages_are_pinned_and_bring_no_model_of_their_own(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in lines)
    assert not any(line.startswith(("torch==", "safetensors==")) for line in lines)
    assert path.stem in {peer.name for peer in PEERS}


def test_an_environment_with_the_same_pins_is_used_again_and_one_with_others_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], what: str) -> str:
        commands.append(command)
        if "venv" in command:
            (Path(command[-1]) / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
        if "--target" in command:
            Path(command[command.index("--target") + 1]).mkdir(parents=True)
        return "cpython 3 11"

    def installed() -> int:
        commands.clear()
        peer_python("fastapi", tmp_path)
        return sum("install" in command for command in commands)

    monkeypatch.setattr("benchmarks.serving.peers.environment._run", run)
    assert [installed(), installed()] == [2, 0]
    shared = tmp_path / "fastapi" / "lib" / "python3.11" / "site-packages" / "shared.pth"
    assert Path(shared.read_text().strip()) == tmp_path / "shared"
    (tmp_path / "fastapi" / "digest").write_text("of other requirements")
    assert [installed(), installed()] == [1, 0]


def test_a_failed_installation_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerError, match="no/such/python"):
        peer_python("fastapi", tmp_path, "no/such/python")
    assert last_lines("one\n\n two \n") == "one | two"
