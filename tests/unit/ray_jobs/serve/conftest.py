"""A pipeline folder of a few lines and packages of it, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ray_jobs.serve.service import PredictionService
from tests.unit.ray_jobs.serve.asking import Ask, asking
from tests.unit.ray_jobs.serve.world import World


@pytest.fixture
def make_world(tmp_path: Path) -> Callable[..., World]:
    return lambda **label: World(tmp_path, {"kind": "binary"} | label)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture
def service(world: World) -> Iterator[PredictionService]:
    service = PredictionService(world.pipeline, world.store, world.log_folder)
    yield service
    service.close()


@pytest.fixture
def ask(service: PredictionService) -> Ask:
    return asking(service)
