"""Each rollout that has begun has one flow run, whoever asks for it and however often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tasks.prefect_api
from millrace import rollouts
from millrace.errors import ServiceError
from millrace.ledger import Ledger, Token
from millrace.rollouts import Rollout
from millrace.settings import Settings
from millrace.spec import RolloutSpec
from tasks.rollout_watch import RolloutWatch, start_rollout
from tests.chaos.outside import Outside


@pytest.fixture
def begin(ledger: Ledger) -> Callable[[str], Rollout]:
    """Begin the rollout of a version beside version 1."""

    def make(version: str) -> Rollout:
        token = ledger.slots.take("p", "serving", "training")
        assert isinstance(token, Token)
        if (serving := ledger.serving("p")) is None:
            because = ledger.decide("p", "promoted", "1", {})
            serving = ledger.serve("p", "1", "digest-1", because=because, token=token)
        return rollouts.begin(ledger, version, serving, RolloutSpec(), {"package": f"digest-{version}"}, token)

    return make


def runs(outside: Outside) -> list[dict[str, Any]]:
    return [run["parameters"] for run in outside.read()["runs"].values()]


def test_its_flow_is_started_once(
    settings: Settings, ledger: Ledger, outside: Outside, begin: Callable[[str], Rollout]
) -> None:
    watch = RolloutWatch(settings, ledger)
    watch.tick()
    assert runs(outside) == []
    begun = begin("2").begun
    for each in (watch, watch, RolloutWatch(settings, ledger)):
        each.tick()
    assert runs(outside) == [{"pipeline": "p", "version": "2"}]
    assert start_rollout(settings, begun) in outside.read()["runs"]


def test_one_that_was_superseded_is_not_started(
    settings: Settings, ledger: Ledger, outside: Outside, begin: Callable[[str], Rollout]
) -> None:
    begin("2")
    begin("3")
    RolloutWatch(settings, ledger).tick()
    assert [run["version"] for run in runs(outside)] == ["3"]


def test_a_prefect_that_is_away_is_asked_again(
    settings: Settings,
    ledger: Ledger,
    outside: Outside,
    begin: Callable[[str], Rollout],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin("2")
    watch = RolloutWatch(settings, ledger)

    def away(*_: Any, **__: Any) -> None:
        raise ServiceError("Prefect is away")

    with monkeypatch.context() as patch:
        patch.setattr(tasks.prefect_api, "_ask", away)
        with pytest.raises(ServiceError):
            watch.tick()
    watch.tick()
    assert len(runs(outside)) == 1
