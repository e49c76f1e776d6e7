"""The short form of `make chaos`: a sample of all schedules, other ones each time the sample's seed is changed."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.chaos.schedules import Case, Reference, double_faults, run_case, single_faults, zombies

_SEED = 20131
_SAMPLE = 25


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference.make(tmp_path_factory.mktemp("chaos"))


def test_the_reference_world_is_the_whole_loop(reference: Reference) -> None:
    checked = reference.outcome["check"]
    assert checked["aliases"] == {"champion": "2", "challenger": "2"}
    assert reference.outcome["rollback"]["aliases"]["champion"] == "1"
    assert checked["unanswered"] == []
    assert len(reference.points()) >= 35


@pytest.mark.parametrize("kind", [single_faults, zombies, lambda reference: list(double_faults(reference, 200, _SEED))])
def test_whatever_strikes_the_world_ends_the_same(
    kind: Callable[[Reference], list[Case]], reference: Reference
) -> None:
    cases = random.Random(_SEED).sample(kind(reference), _SAMPLE)
    differing = {str(case): found for case in cases if (found := run_case(reference, case))}
    assert differing == {}
