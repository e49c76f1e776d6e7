"""What prefect.yaml promises: entry points that import, parameters that flows take, triggers that are not open."""

from __future__ import annotations

import importlib
import inspect
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOYMENTS = {
    item["name"]: item for item in yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
}


def flow_of(deployment: dict[str, Any]) -> Any:
    path, _, name = deployment["entrypoint"].partition(":")
    return getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_every_flow_has_its_deployment() -> None:
    assert set(DEPLOYMENTS) == {"training", "respond", "monitoring", "replay", "rollout", "rollback", "restore"}


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
class TestDeployment:
    def test_its_entry_point_is_the_flow_of_that_name(self, name: str) -> None:
        assert flow_of(DEPLOYMENTS[name]).name == name

    def test_its_parameters_are_the_flows(self, name: str) -> None:
        deployment = DEPLOYMENTS[name]
        known = inspect.signature(flow_of(deployment).fn).parameters
        given = dict(deployment.get("parameters", {}))
        for schedule in deployment.get("schedules", []):
            given |= schedule.get("parameters", {})
        for trigger in deployment.get("triggers", []):
            given |= trigger["parameters"]
        assert set(given) <= set(known)
        required = {key for key, parameter in known.items() if parameter.default is inspect.Parameter.empty}
        assert required <= set(given), "a click on 'run' in the UI would have to fill these"

    def test_a_person_is_told_what_it_and_its_parameters_do(self, name: str) -> None:
        deployment = DEPLOYMENTS[name]
        assert len(deployment["description"]) > 40
        flow = flow_of(deployment)
        schema = flow.parameters.model_dump()["properties"]
        for parameter, field in schema.items():
            assert len(field.get("description", "")) > 10, f"{parameter} is not described in the form"
            assert field.get("type") or field.get("anyOf"), f"{parameter} has no type in the form"

    def test_its_triggers_match_something(self, name: str) -> None:
        for trigger in DEPLOYMENTS[name].get("triggers", []):
            assert trigger["match"]["prefect.resource.id"].startswith("millrace.")
            assert trigger["expect"] == ["millrace.incident.opened"]


def test_the_event_and_the_trigger_agree() -> None:
    from tasks.responses import EVENT, RESOURCE

    (trigger,) = DEPLOYMENTS["respond"]["triggers"]
    assert trigger["expect"] == [EVENT]
    assert trigger["match"]["prefect.resource.id"] == f"{RESOURCE}.*"


def test_times_are_times_in_the_form() -> None:
    replay = flow_of(DEPLOYMENTS["replay"])
    assert replay.parameters.model_dump()["properties"]["start"]["format"] == "date-time"
    given = DEPLOYMENTS["replay"]["parameters"]
    assert datetime.fromisoformat(given["start"]) < datetime.fromisoformat(given["end"])


def test_monitoring_has_a_schedule() -> None:
    (schedule,) = DEPLOYMENTS["monitoring"]["schedules"]
    assert schedule["cron"]
    assert schedule["parameters"]["pipeline"] == "flight_delays"
