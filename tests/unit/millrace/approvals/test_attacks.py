"""No attack has a run go ahead; the honest answer does."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reliability.approvals import ATTACKS, honest, play


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attacks")


def test_there_are_many() -> None:
    assert len(ATTACKS) >= 40


def test_an_honest_approval_counts(folder: Path) -> None:
    assert play(folder / "honest", honest) == (True, "")


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(name: str, folder: Path) -> None:
    succeeded, _ = play(folder / str(list(ATTACKS).index(name)), ATTACKS[name])
    assert not succeeded
