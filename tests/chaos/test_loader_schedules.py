"""Exactly once: a taste of what benchmarks/training/exactly_once.py plays by the thousand."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.loader_schedules import Case, real_violations, violations


@pytest.mark.parametrize("seed", range(3))
def test_killed_processes_lose_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    assert real_violations(Case.of(tmp_path, chance), chance) == 0


@pytest.mark.parametrize("seed", range(10))
def test_a_schedule_changes_no_batch(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    assert violations(Case.of(tmp_path, chance), chance) == 0
