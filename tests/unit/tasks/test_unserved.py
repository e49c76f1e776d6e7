"""A model that answers no requests becomes the champion all the same: in the ledger and the registry, nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from millrace.errors import ApprovalError, ConfigError
from millrace.ledger import Ledger
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.window import Window
from tasks import approval, artifacts, champion, rollout, settling, unserved
from tasks.checks import check_window
from tasks.outcome import known_champion
from tasks.registry import Version
from tasks.replay import replay_window
from tasks.rollout import REFUSED, roll_back
from tasks.run import Run, open_run
from tasks.run_kinds import PROMOTED
from tasks.slots import holding
from tasks.traffic import change_traffic
from tests.prose import NAME, write_prose
from tests.unit.tasks.test_approval import evaluation

METRICS = {"challenger": {"bits_per_byte": 2.0}, "baseline": {"bits_per_byte": 4.0}}
FIRST = replace(evaluation(), metrics=METRICS, champion_version=None)
WINDOW: Window = FIRST.window


class Registry:
    """MLflow's versions 1 to 4 of `prose`, and who bears the champion's alias."""

    def __init__(self) -> None:
        self.named: list[str] = []

    def version(self, pipeline: str, number: str) -> Version:
        aliases = ("champion",) if self.named and self.named[-1] == number else ()
        return Version(pipeline, number, f"key-{number}", f"digest-{number}", aliases, 0.0, "", {})

    def set_alias(self, version: Version, alias: str) -> None:
        assert alias == "champion"
        self.named.append(version.version)

    def url(self, version: Version) -> str:
        return f"http://registry/{version.version}"


@pytest.fixture
def registry(prose: Pipeline, local_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for name, value in local_settings.environment().items():
        monkeypatch.setenv(name, value)
    made = Registry()
    for module in (unserved, champion, approval):
        monkeypatch.setattr(module, "Registry", lambda _: made)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda **_: None)

    def never(*_: Any) -> None:
        raise AssertionError("nothing of it is served")

    monkeypatch.setattr(rollout, "deploy", never)
    monkeypatch.setattr(rollout, "connect", never)
    return made


def settle(registry: Registry, version: str, found: Any = FIRST, run: str = "local-1") -> str | None:
    """The end of a training that has made `version`."""
    with open_run("training", NAME, run_id=run) as opened:
        return settling.settle(opened, registry.version(NAME, version), found)


def test_the_first_is_promoted_and_said_not_to_be_served(registry: Registry, local_settings: Settings) -> None:
    assert settle(registry, "1") == "promoted, not served"
    ledger = Ledger(local_settings.ledger)
    (entry,) = ledger.entries(NAME, PROMOTED)
    assert (entry.subject, entry.actor) == ("1", "local-1")
    assert (entry.detail["package"], entry.detail["observed"]) == ("digest-1", 2.0)
    assert registry.named == ["1"]
    # What watches and restores what serves sees nothing.
    assert ledger.all_serving() == []
    assert ledger.slots.holder(NAME, "serving") is None


def test_the_next_one_must_be_judged_against_it(registry: Registry) -> None:
    settle(registry, "1")
    assert settle(registry, "2", run="local-2") is None
    assert settle(registry, "2", replace(FIRST, champion_version="1"), "local-2") == "promoted, not served"
    assert registry.named == ["1", "2"]


def test_what_failed_its_gate_leaves_the_champion(registry: Registry, local_settings: Settings) -> None:
    settle(registry, "1")
    refused = replace(evaluation(passed=False), metrics=METRICS, champion_version="1")
    assert settle(registry, "2", refused, "local-2") == REFUSED
    assert registry.named == ["1"]
    assert [entry.subject for entry in Ledger(local_settings.ledger).entries(NAME, REFUSED)] == ["2"]


def test_killed_between_ledger_and_registry_it_does_the_rest(
    registry: Registry, local_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(unserved, "name_champion", lambda *_: pytest.fail("killed"))
        with pytest.raises(BaseException, match="killed"):
            settle(registry, "1")
    assert registry.named == []
    assert settle(registry, "1") == "promoted, not served"
    assert registry.named == ["1"]
    assert len(Ledger(local_settings.ledger).entries(NAME, PROMOTED)) == 1


def test_what_was_replaced_since_stays_replaced(registry: Registry) -> None:
    settle(registry, "1")
    settle(registry, "2", replace(FIRST, champion_version="1"), "local-2")
    assert settle(registry, "1") == "promoted, not served"
    assert registry.named == ["1", "2"]


def test_the_same_package_again_is_unchanged_and_keeps_its_name(registry: Registry) -> None:
    settle(registry, "1")
    result: Any = SimpleNamespace(package_digest="digest-1")
    registry.named.append("3")  # somebody moved the alias
    with open_run("training", NAME, run_id="local-1") as same, open_run("training", NAME, run_id="local-2") as other:
        assert known_champion(same, result) is None, "its own promotion goes on"
        found = known_champion(other, result)
        assert found is not None
        with holding(other, "training") as held:
            settling.keep(held, found)
            settling.keep(held, registry.version(NAME, "1"))
    assert registry.named == ["1", "3", "1"]


def test_it_is_approved_where_the_spec_asks(registry: Registry, local_settings: Settings) -> None:
    write_prose(local_settings.pipelines, {"approvals": {"promote": True}})
    with pytest.raises(ApprovalError, match="nobody was asked"):
        settle(registry, "1")
    assert registry.named == []
    assert Ledger(local_settings.ledger).entries(NAME, PROMOTED) == []


@pytest.mark.parametrize(
    "act",
    [
        lambda run: check_window(run, WINDOW),
        lambda run: replay_window(run, WINDOW, 8),
        lambda run: roll_back(run, None, "person:me"),
        lambda run: change_traffic(run, SimpleNamespace(), "person:me"),
    ],
    ids=["check", "replay", "rollback", "traffic"],
)
def test_what_asks_what_serves_is_refused_with_its_reason(registry: Registry, act: Callable[[Run], Any]) -> None:
    settle(registry, "1")
    with open_run("any", NAME, run_id="local-2") as run, pytest.raises(ConfigError, match="learns from texts"):
        act(run)
