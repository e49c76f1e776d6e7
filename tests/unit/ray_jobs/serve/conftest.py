"""A pipeline folder of a few lines and packages of it, without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.ray_jobs.serve.world import World


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    return lambda **label: World(tmp_path, {"kind": "binary"} | label)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
