"""`millrace shadow`: the verdict on what was mirrored, for people and for scripts."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.shadow import judge
from millrace.errors import ConfigError, ConflictError
from millrace.inference_log import inference_folder, shadow_record, shadow_writer
from millrace.ledger import Ledger, Token
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.traffic_rules import TrafficRules, VersionShare


def mirror(settings: Settings, pipeline: Pipeline, off: float) -> None:
    ledger = Ledger(settings.ledger)
    token = ledger.slots.take("tiny", "serving", "run")
    assert isinstance(token, Token)
    ledger.serve("tiny", "1", "digest-1", because=ledger.decide("tiny", "promoted", "1", {}), token=token)
    rules = TrafficRules(TrafficRules.only("1").division, shadow=VersionShare("2", 0.5))
    ledger.divide("tiny", "1", rules, {"2": "digest-2"}, actor="me", token=token)
    writer = shadow_writer(inference_folder(settings, "tiny"), pipeline.spec.data, 10.0)
    for number in range(300):
        answered = {"request_id": f"r{number}", "version": "1", "answered_at": number, "prediction": [0.4, 0.5]}
        for version in ("2", "3"):
            writer.append(shadow_record(answered, version, [0.4 + off, 0.5 + off], dropped=0))
    writer.close()


@pytest.mark.parametrize(("off", "told"), [(0.0, "passed"), (0.2, "failed")])
def test_it_judges_the_shadow_of_now(off: float, told: str, tiny: Pipeline, local_settings: Settings) -> None:
    mirror(local_settings, tiny, off)
    env = local_settings.environment() | {"COLUMNS": "200"}
    result = CliRunner().invoke(cli.app, ["shadow", "tiny"], env=env)
    assert result.exit_code == 0, result.output
    assert told in result.stdout
    assert "of 600 answers moved" in result.stdout
    found = json.loads(CliRunner().invoke(cli.app, ["shadow", "tiny", "--json"], env=env).stdout)
    assert (found["version"], found["answered_by"]) == ("2", ["1"])
    assert found["verdict"]["passed"] is (off == 0.0)
    assert judge(local_settings, "tiny", tolerance=0.3)["verdict"]["passed"]
    assert judge(local_settings, "tiny", version="9")["verdict"]["observed"] is None


def test_what_was_never_mirrored_has_no_verdict(tiny: Pipeline, local_settings: Settings) -> None:
    with pytest.raises(ConflictError, match="ever mirrored"):
        judge(local_settings, "tiny")


@pytest.mark.parametrize("options", [{"tolerance": -1.0}, {"tolerance": float("nan")}, {"most_moved": 1.1}])
def test_a_number_that_is_none_is_refused(options: dict[str, float], tiny: Pipeline, local_settings: Settings) -> None:
    with pytest.raises(ConfigError, match="a number from 0"):
        judge(local_settings, "tiny", **options)
