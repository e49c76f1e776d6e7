"""`millrace history`: what served at any moment, why, and who decided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from benchmarks.reliability.approvals import RUN, Scene
from flows import cli
from flows.history import NOTES, history
from millrace.approvals import requests
from millrace.errors import DigestError, UnknownNameError
from millrace.ledger import Fact, Ledger, Token
from millrace.ledger.journal import GENESIS
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from tests.ledgers import INCIDENT, tamper, week


@pytest.fixture
def ledger(tiny: Pipeline, local_settings: Settings) -> Iterator[Ledger]:
    made = Ledger(local_settings.ledger)
    yield made
    made.close()


@pytest.fixture
def moments(ledger: Ledger) -> dict[str, datetime]:
    """Two promotions, an incident and a rollback; when each version began to serve."""

    def serve(version: str, run: str, kind: str, subject: str, detail: dict[str, Any], actor: str) -> datetime:
        token = ledger.slots.take("tiny", "serving", run)
        assert isinstance(token, Token)
        cause = ledger.decide("tiny", kind, subject, detail, actor=actor, token=token)
        entry = ledger.serve("tiny", version, f"sha256:{version}", because=cause, token=token)
        ledger.slots.release(token)
        return entry.at

    first = serve("1", "run-1", "promoted", "1", {"observed": 0.7, "reasons": ["it is the first"]}, "run-1")
    ledger.outbox.open(replace(INCIDENT, version="1"))
    ledger.outbox.answer(replace(INCIDENT, version="1").key, "run-2")
    second = serve("2", "run-2", "promoted", "2", {"observed": 0.8, "reasons": ["better by 0.1"]}, "run-2")
    ledger.outbox.close(replace(INCIDENT, version="1").key, "promoted")
    third = serve("1", "run-3", "rolled_back", "run-3", {"from": "2", "to": "1"}, "person:ada [the 1st]")
    return {"first": first, "second": second, "third": third}


def millrace(settings: Settings, *arguments: str) -> Result:
    env = {
        "MILLRACE_STATE_DIR": str(settings.state_dir),
        "MILLRACE_PIPELINES_DIR": str(settings.pipelines_dir),
        "COLUMNS": "200",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_settings", lambda: settings)
        return CliRunner().invoke(cli.app, ["history", *arguments], env=env)


def test_it_tells_what_served_at_any_moment_and_who_decided(
    local_settings: Settings, moments: dict[str, datetime]
) -> None:
    tick = timedelta(microseconds=1)
    told = {
        name: history(local_settings, "tiny", at=at)["serving"]
        for name, at in (*moments.items(), ("then", moments["third"] - tick), ("before", moments["first"] - tick))
    }
    assert told["before"] is None
    assert {name: (said["version"], said["package"], said["decided_by"]) for name, said in told.items() if said} == {
        "first": ("1", "sha256:1", "run-1"),
        "second": ("2", "sha256:2", "run-2"),
        "then": ("2", "sha256:2", "run-2"),
        "third": ("1", "sha256:1", "person:ada [the 1st]"),
    }
    assert told["then"]["since"] == moments["second"].isoformat()
    assert (told["then"]["because"]["kind"], told["then"]["because"]["why"]) == ("promoted", "better by 0.1")
    assert (told["third"]["because"]["kind"], told["third"]["because"]["why"]) == (
        "rolled_back",
        "from version 2 to 1",
    )


def test_the_timeline_is_in_order_and_without_notes(local_settings: Settings, moments: dict[str, datetime]) -> None:
    answer = history(local_settings, "tiny")
    assert [entry["kind"] for entry in answer["entries"]] == [
        "promoted", "serving", "incident_opened", "incident_answered", "promoted", "serving", "incident_closed",
        "rolled_back", "serving",
    ]  # fmt: skip
    assert answer["serving"]["version"] == "1"
    full = history(local_settings, "tiny", everything=True)["entries"]
    assert [entry["entry"] for entry in full] == list(range(1, 16))
    assert {entry["kind"] for entry in full} - {entry["kind"] for entry in answer["entries"]} == {
        "serving_slot_taken", "serving_slot_released",
    }  # fmt: skip


def test_what_is_hidden_are_kinds_that_there_are() -> None:
    from flows.demo import DEMO
    from millrace.approvals.requests import AWAITED
    from millrace.ledger.ledger import WINDOW_CHECKED
    from millrace.ledger.slots import released, taken
    from tasks.checks import BEGUN, CHECKED
    from tasks.replay import REPLAYED
    from tasks.run_kinds import RESUMED, STARTED
    from tasks.training import EVALUATED, FITTED

    slots = {kind(slot) for kind in (taken, released) for slot in ("training", "serving")}  # type: ignore[arg-type]
    notes = {AWAITED, BEGUN, CHECKED, DEMO, EVALUATED, FITTED, REPLAYED, RESUMED, STARTED, WINDOW_CHECKED}
    assert slots | notes == NOTES


def approved(ledger: Ledger, scene: Scene) -> None:
    """Let version 2 serve, by the approval of the scene's request."""
    token = ledger.slots.take("tiny", "serving", RUN)
    assert isinstance(token, Token)
    requests.use(ledger, requests.standing_of(ledger, scene.request, scene.now), RUN, token=token)
    detail = {"reasons": ["better"], "approval": scene.request.id}
    cause = ledger.decide("tiny", "promoted", "2", detail, actor=RUN, token=token)
    ledger.serve("tiny", "2", "sha256:2", because=cause, token=token)


def test_a_person_who_approved_it_is_who_decided(local_settings: Settings, ledger: Ledger) -> None:
    scene = Scene.build(ledger)
    scene.give(scene.code().text)
    approved(ledger, scene)
    told = history(local_settings, "tiny")
    assert told["serving"]["decided_by"] == "person:alice"
    assert told["serving"]["because"]["actor"] == RUN, "the run that did it"
    said = {entry["kind"]: (entry["actor"], entry["why"]) for entry in told["entries"]}
    assert said["approval_requested"][1] == "let version 2 serve"
    assert said["approval_decided"] == ("person:alice", "approve")


def test_an_approval_that_nobody_signed_names_no_person(local_settings: Settings, ledger: Ledger) -> None:
    scene = Scene.build(ledger)
    ledger.append(Fact("tiny", requests.DECIDED, scene.request.id, {"code": "forged", "reason": ""}, "person:alice"))
    approved(ledger, scene)
    told = history(local_settings, "tiny")
    assert told["serving"]["decided_by"] == RUN
    assert "person:alice" not in str(told["serving"])


def test_a_person_reads_a_table(local_settings: Settings, moments: dict[str, datetime]) -> None:
    done = millrace(local_settings, "tiny")
    assert done.exit_code == 0, done.output
    assert "drift of version 1: moved" in done.stdout
    assert "training run-2" in done.stdout
    assert "person:ada [the 1st]" in done.stdout, "what people are called is no markup"
    assert done.stdout.index("incident_opened") < done.stdout.index("rolled_back"), "newest last"
    done = millrace(local_settings, "tiny", "--at", moments["second"].isoformat())
    assert "promoted: better by 0.1" in done.stdout
    assert f"{moments['second']:%Y-%m-%d %H:%M:%S}" in done.stdout
    assert "incident" not in done.stdout


def test_a_script_reads_json(local_settings: Settings, moments: dict[str, datetime]) -> None:
    done = millrace(local_settings, "tiny", "--json", "--verify")
    answer = json.loads(done.stdout)
    assert answer["serving"]["decided_by"] == "person:ada [the 1st]"
    assert answer["entries"][2]["detail"]["window"] == week(0).key
    assert answer["chain"]["entries"] == 15
    at = json.loads(millrace(local_settings, "tiny", "--json", "--at", "2001-01-01").stdout)
    assert at == {"pipeline": "tiny", "at": "2001-01-01T00:00:00+00:00", "serving": None}


def test_before_the_first_version_it_says_so(local_settings: Settings, ledger: Ledger) -> None:
    assert "tiny: no version served yet" in millrace(local_settings, "tiny").stdout
    told = millrace(local_settings, "tiny", "--at", "2020-01-01", "--verify").stdout
    assert "tiny: no version served at 2020-01-01 00:00:00" in told
    assert f"the ledger is whole: 0 entries, head {GENESIS}" in told


def test_verify_finds_what_was_altered_and_what_is_gone(
    local_settings: Settings, ledger: Ledger, moments: dict[str, datetime]
) -> None:
    head = history(local_settings, "tiny", verify=True)["chain"]["digest"]
    assert history(local_settings, "tiny", head=head)["chain"]["entries"] == 15
    tamper(local_settings.ledger, "DELETE FROM entries WHERE sequence = 15")
    assert history(local_settings, "tiny", verify=True)["chain"]["entries"] == 14
    with pytest.raises(DigestError, match="the ledger lost entries"):
        history(local_settings, "tiny", head=head)
    tamper(local_settings.ledger, "UPDATE entries SET actor = 'person:eve' WHERE sequence = 13")
    done = millrace(local_settings, "tiny", "--verify")
    assert isinstance(done.exception, DigestError)
    assert "the ledger was changed at entry 13" in str(done.exception)


def test_an_unknown_pipeline_names_the_nearest(local_settings: Settings, tiny: Pipeline) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'tiny'"):
        history(local_settings, "tny")
    assert not Path(local_settings.ledger.removeprefix("sqlite:///")).exists()
