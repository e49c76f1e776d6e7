"""Plans as the deployment's configuration."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ConfigError
from millrace.traffic_rules import TrafficChange, TrafficRules, VersionShare
from ray_jobs.serve.plan import TrafficPlan, plan_of
from ray_jobs.serve.versions import Target
from tests.unit.millrace.test_traffic_rules import RULES


def target(version: str, token: int = 3) -> Target:
    return Target(version, f"packages/{version}", f"digest-{version}", token)


ALL = [target(version, 1) for version in "abcd"]


@given(rules=RULES, primary=st.sampled_from("abcd"))
def test_a_plan_survives_the_configuration(rules: TrafficRules, primary: str) -> None:
    plan = TrafficPlan.of(target(primary), ALL, rules)
    config = plan.as_config()
    assert all(isinstance(value, str) for value in config.values())
    found = TrafficPlan.from_config(json.loads(json.dumps(config)))
    assert found == plan
    assert {each.token for each in found.targets} == {3}
    assert {each.version for each in plan.targets} == rules.answering | {primary}
    # Who knows of one version only finds the primary where it always was.
    assert Target.from_config(config) == target(primary)
    assert config | target(primary).as_config() == config


def test_a_target_alone_is_a_plan_with_the_same_configuration() -> None:
    plan = plan_of(target("a"))
    assert plan.is_alone
    assert plan.as_config() == target("a").as_config()
    assert TrafficPlan.from_config(target("a").as_config()) == plan
    assert plan_of(plan) is plan


def test_a_shadow_is_no_matter_of_the_replicas() -> None:
    mirrored = TrafficChange(shadow=VersionShare("b", 0.5)).of(TrafficRules.only("a"))
    assert TrafficPlan.of(target("a"), ALL, mirrored) == TrafficPlan.alone(target("a"))


def test_a_token_is_no_part_of_what_is_served() -> None:
    rules = TrafficChange(pins={"acme": "b"}).of(TrafficRules.only("a"))
    plan = TrafficPlan.of(target("a"), ALL, rules)
    later = TrafficPlan.of(replace(target("a"), token=9), ALL, rules)
    assert (plan, later.token) == (later, 9)
    assert plan != TrafficPlan.of(target("a"), ALL, TrafficRules.only("a"))


def test_a_version_that_is_not_there_cannot_answer() -> None:
    rules = TrafficChange(pins={"acme": "z"}).of(TrafficRules.only("a"))
    with pytest.raises(ConfigError, match="not served"):
        TrafficPlan.of(target("a"), ALL, rules)


def test_it_says_what_it_is_and_not_who_is_pinned() -> None:
    rules = TrafficChange(shares={"a": 0.75, "b": 0.25}, pins={"acme": "b"}).of(TrafficRules.only("a"))
    told = TrafficPlan.of(target("a"), ALL, rules).described()
    assert (told["shares"], told["pins"]) == ({"a": 0.75, "b": 0.25}, 1)
    assert told["versions"] == {"a": "digest-a", "b": "digest-b"}
    assert "acme" not in json.dumps(told)
