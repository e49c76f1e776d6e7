"""`millrace rollout`: what it shows of a rollout, and how a person has it go on or stops it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import tasks.prefect_api
from flows import cli, roll_back, roll_out
from flows.history import history
from flows.inspect import _decision
from flows.roll_out import resume_rollout, show_rollout, stop_rollout
from millrace import rollouts
from millrace.canary import RolloutDecision
from millrace.canary.judgement import CanaryTest
from millrace.errors import ConflictError, UnknownNameError
from millrace.inference_log import inference_folder
from millrace.ledger import Ledger, Token
from millrace.pipeline import Pipeline
from millrace.rollouts import Rollout, microseconds
from millrace.settings import Settings
from millrace.spec import RolloutSpec
from millrace.traffic_rules import TrafficChange, TrafficRules, VersionShare
from tasks.rollback_requests import end, pending
from tasks.traffic_requests import TrafficRequest
from tests.chaos.outside import Outside, PrefectApi
from tests.unit.millrace.canary.test_polls import BEGIN, Log

SPEC = RolloutSpec.model_validate(
    {"steps": [{"share": 0.1, "min_requests": 100}, {"share": 0.5, "min_requests": 1_000}], "tests": ["failures"]}
)


@pytest.fixture
def ledger(tiny: Pipeline, local_settings: Settings) -> Iterator[Ledger]:
    with closing(Ledger(local_settings.ledger)) as made:
        yield made


@pytest.fixture
def token(ledger: Ledger) -> Token:
    token = ledger.slots.take("tiny", "serving", "training-1")
    assert isinstance(token, Token)
    return token


@pytest.fixture
def begun(ledger: Ledger, token: Token) -> Rollout:
    """Version 7 beside version 6."""
    because = ledger.decide("tiny", "promoted", "6", {})
    serving = ledger.serve("tiny", "6", "digest-6", because=because, token=token)
    return rollouts.begin(
        ledger, "7", serving, SPEC, {"package": "digest-7", "reasons": ["better by 0.1"], "approval": None}, token
    )


@pytest.fixture
def second_step(ledger: Ledger, token: Token, begun: Rollout) -> Rollout:
    """At its second step."""
    share(ledger, token, begun, 0)
    verdict = CanaryTest(SPEC).verdict().as_dict() | {"without_data": ["failures"]}
    verdict["evidence"]["requests_in_step"] = 120
    decision = RolloutDecision("advance", "120 requests at 10% without a breach")
    until = microseconds(rollouts.again(ledger, begun).shares[0].at)
    ledger.append(rollouts.decided(begun, 0, decision, until, verdict, "run-1"))
    share(ledger, token, begun, 1)
    return rollouts.again(ledger, begun)


def share(ledger: Ledger, token: Token, rollout: Rollout, step: int) -> None:
    canary = VersionShare("7", SPEC.steps[step].share)
    rules = TrafficChange(canary=canary).of(TrafficRules.only("6"))
    ledger.divide("tiny", "6", rules, {"7": "digest-7"}, actor="run-1", token=token, once=rollout.once(step))


def test_before_its_first_share(local_settings: Settings, begun: Rollout) -> None:
    found = show_rollout(local_settings, "tiny")
    assert (found["version"], found["champion"], found["outcome"]) == ("7", "6", "going on")
    assert [step["share"] for step in found["steps"]] == [0.1, 0.5]
    assert (found["steps"][0]["since"], found["flow_run"], found["tests"]) == (None, None, {})


def test_what_its_flow_sees_is_read_from_the_log(
    local_settings: Settings, second_step: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = second_step.shares[1].at
    with closing(Log(inference_folder(local_settings, "tiny"))) as log:
        for number in range(50):
            at = microseconds(begin + timedelta(seconds=1 + number / 100)) - BEGIN
            version = "67"[number % 2]
            if version == "7":
                log.fail(f"{number}", version, at)
            else:
                log.answer(f"{number}", version, at)
        monkeypatch.setattr(roll_out.time, "time", lambda: begin.timestamp() + 2)
        found = show_rollout(local_settings, "tiny")
    first, second = found["steps"]
    assert (first["requests"], first["decided"]) == (120, "advance")
    assert (second["requests"], second["decided"], second["since"]) == (50, None, begin.isoformat())
    assert found["tests"]["failures"]["num_canary"] == 25
    assert found["tests"]["failures"]["e_value"] > 400
    assert found["verdict"]["passed"] is False
    assert found["flow_run"] == "run-1"
    assert rollouts.again(Ledger(local_settings.ledger), second_step) == second_step, "who looks decides nothing"


def test_how_it_ended(local_settings: Settings, ledger: Ledger, second_step: Rollout) -> None:
    verdict = CanaryTest(SPEC).verdict().as_dict()
    decision = RolloutDecision("roll back", "failures: breach; many")
    ledger.append(
        rollouts.decided(second_step, 1, decision, 0, verdict, "run-1"),
        rollouts.ending(second_step, "rejected", "run-1", [decision.reason]),
    )
    found = show_rollout(local_settings, "tiny")
    assert (found["outcome"], found["ended_by"], found["reasons"]) == ("rejected", "run-1", [decision.reason])
    assert found["steps"][1]["decided"] == "roll back"
    told = {entry["kind"]: entry["why"] for entry in history(local_settings, "tiny")["entries"]}
    assert told["rollout_begun"] == "beside version 6: better by 0.1"
    assert told["rollout_decided"] == "step 2: roll back, failures: breach; many"
    assert told["rollout_ended"] == "rejected: failures: breach; many"


def test_what_versions_says_of_it(ledger: Ledger, begun: Rollout) -> None:
    assert _decision(begun.begun) == "rolling out"
    for number, (outcome, told) in enumerate(
        [("promoted", "promoted"), ("rejected", "refused"), ("stopped", "rollout stopped")]
    ):
        fact = rollouts.ending(begun, outcome, "run", [])  # type: ignore[arg-type]
        ((entry, _),) = ledger.append(fact.__class__(**{**_fields(fact), "once": str(number)}))
        assert _decision(entry) == told


def _fields(fact: Any) -> dict[str, Any]:
    return {name: getattr(fact, name) for name in ("pipeline", "kind", "subject", "detail", "actor")}


def test_a_stopped_one_has_ended_and_its_canary_is_taken_off(
    local_settings: Settings, ledger: Ledger, second_step: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def standby(ledger_: Ledger, request: Any, *_: Any) -> dict[str, Any]:
        seen.append(rollouts.again(ledger, second_step).outcome)
        assert [each.id for each in pending(ledger, TrafficRequest)] == [request.id]
        end(ledger_, request, {"version": "6", "seconds": 0.1})
        return {"version": "6", "seconds": 0.1}

    monkeypatch.setattr(roll_back, "wait", standby)
    found = stop_rollout(local_settings, "tiny")
    assert seen == ["stopped"]
    assert (found["outcome"], found["serving"]) == ("stopped", "6")
    assert found["ended_by"].startswith("person:")
    (request,) = ledger.entries("tiny", TrafficRequest.requested)
    change = TrafficRequest.of(request).change
    assert change.of(TrafficRules(TrafficRules.only("6").division, canary=VersionShare("7", 0.5))).canary is None
    with pytest.raises(ConflictError, match="no rollout of 'tiny' goes on"):
        stop_rollout(local_settings, "tiny")


@pytest.mark.parametrize(
    ("state", "then"), [("CANCELLED", "SCHEDULED"), ("FAILED", "SCHEDULED"), ("RUNNING", "RUNNING")]
)
def test_one_that_was_cancelled_goes_on_under_its_own_id(
    local_settings: Settings,
    second_step: Rollout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    then: str,
) -> None:
    outside = Outside(tmp_path)
    monkeypatch.setattr(tasks.prefect_api, "_ask", PrefectApi(outside).ask)
    first = resume_rollout(local_settings, "tiny")["flow_run"]
    with outside.edit() as held:
        held["runs"][first]["state"] = state
    assert resume_rollout(local_settings, "tiny")["flow_run"] == first
    runs = outside.read()["runs"]
    assert {run: found["state"] for run, found in runs.items()} == {first: then}


def test_there_is_nothing_to_show(local_settings: Settings, ledger: Ledger) -> None:
    with pytest.raises(ConflictError, match="no rollout of a version of 'tiny' has begun"):
        show_rollout(local_settings, "tiny")
    for act in (show_rollout, resume_rollout, stop_rollout):
        with pytest.raises(UnknownNameError):
            act(local_settings, "nobody")


def test_the_command(local_settings: Settings, second_step: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_settings", lambda: local_settings)
    shown = CliRunner().invoke(cli.app, ["rollout", "tiny", "--json"])
    found = json.loads(shown.stdout)
    assert datetime.fromisoformat(found["begun_at"]) == second_step.begun.at
    assert found["steps"][1]["share"] == 0.5
    table = CliRunner().invoke(cli.app, ["rollout", "tiny"], env={"COLUMNS": "200"})
    assert table.exit_code == 0, table.output
    for told in ("version 7 beside version 6", "50.00%", "advance", "failures: undecided", "a breach at 100"):
        assert told in table.stdout
    assert CliRunner().invoke(cli.app, ["rollout", "tiny", "--resume", "--stop"]).exit_code == 2
