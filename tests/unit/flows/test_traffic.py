"""`millrace traffic`: what its options say, what it shows, and what it refuses before anybody is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli, roll_back
from flows.history import why
from flows.traffic import change_of, run_traffic, show_traffic
from millrace.errors import ConfigError, ConflictError, UnknownNameError
from millrace.ledger import TRAFFIC, Ledger, Token
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.traffic_rules import TrafficChange, TrafficRules, VersionShare
from tasks.rollback_requests import end
from tasks.traffic_requests import TrafficRequest


@pytest.fixture
def ledger(tiny: Pipeline, local_settings: Settings) -> Ledger:
    return Ledger(local_settings.ledger)


@pytest.fixture
def divide(ledger: Ledger) -> Callable[[TrafficChange], None]:
    """Version 6 serves; others answer beside it by a change."""
    token = ledger.slots.take("tiny", "serving", "run")
    assert isinstance(token, Token)
    because = ledger.decide("tiny", "promoted", "6", {})
    ledger.serve("tiny", "6", "digest-6", because=because, token=token)

    def said(change: TrafficChange) -> None:
        rules = change.of(TrafficRules.only("6"))
        ledger.divide("tiny", "6", rules, {}, actor="person:me", token=token, once=str(change))

    return said


def test_options_are_a_change() -> None:
    assert change_of(["7=0.1", "6=0.9"], ["acme=7"], ["umbrella"], "8=0.2", None, "customer") == TrafficChange(
        None, {"7": 0.1, "6": 0.9}, "customer", {"acme": "7", "umbrella": None}, shadow=VersionShare("8", 0.2)
    )
    assert change_of(only="6") == TrafficChange(only="6")
    assert change_of().is_empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": ["7"]}, "VERSION=SHARE"),
        ({"shares": ["7=much"]}, "no share"),
        ({"shares": ["7=1.5"]}, "from 0 to 1"),
        ({"shares": ["7=0.5", "7=0.5"]}, "7 twice"),
        ({"pins": ["acme"]}, "CUSTOMER=VERSION"),
        ({"pins": ["acme=7"], "unpinned": ["acme"]}, "at once"),
        ({"shadow": "=0.2"}, "VERSION=SHARE"),
        ({"sticky": "always"}, "session, customer, request"),
    ],
)
def test_an_option_that_cannot_be_read_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        change_of(**options)


def test_it_shows_what_the_ledger_says(divide: Callable[..., None], local_settings: Settings) -> None:
    found = show_traffic(local_settings, "tiny")
    assert found == {
        "pipeline": "tiny",
        "version": "6",
        "shares": {"6": 1.0},
        "sticky": "session",
        "pins": {},
        "canary": None,
        "shadow": None,
    }
    divide(change_of(["7=0.1", "6=0.9"], ["acme=7"], shadow="8=0.2"))
    found = show_traffic(local_settings, "tiny")
    assert (found["shares"], found["pins"]) == ({"6": 0.9, "7": 0.1}, {"acme": "7"})
    assert found["shadow"] == {"version": "8", "share": 0.2}


@pytest.mark.parametrize("as_json", [True, False])
def test_people_and_scripts_read_it(divide: Callable[..., None], local_settings: Settings, as_json: bool) -> None:
    divide(change_of(["7=0.1", "6=0.9"], ["acme=7"], shadow="8=0.2"))
    env = local_settings.environment() | {"COLUMNS": "200"}
    result = CliRunner().invoke(cli.app, ["traffic", "tiny", *(["--json"] if as_json else [])], env=env)
    assert result.exit_code == 0, result.output
    if as_json:
        assert json.loads(result.stdout)["shares"] == {"6": 0.9, "7": 0.1}
    else:
        for told in ("10.00%", "90.00%", "customer acme", "version 8, 20.00%"):
            assert told in result.stdout


def test_what_cannot_be_is_refused_before_anybody_is_asked(
    divide: Callable[..., None], ledger: Ledger, local_settings: Settings
) -> None:
    with pytest.raises(ConfigError, match="1 in all"):
        run_traffic(local_settings, "tiny", change_of(["7=0.1"]))
    with pytest.raises(UnknownNameError):
        run_traffic(local_settings, "tini", change_of(["7=1"]))
    assert ledger.entries(None, TrafficRequest.requested) == []


def test_without_a_version_that_serves_there_is_nothing_to_divide(ledger: Ledger, local_settings: Settings) -> None:
    with pytest.raises(ConflictError, match="serves no version"):
        show_traffic(local_settings, "tiny")


def test_the_answer_is_what_the_standby_did(
    divide: Callable[..., None], ledger: Ledger, local_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = change_of(["7=0.5", "6=0.5"])

    def standby(ledger: Ledger, request: Any, *_: Any) -> dict[str, Any]:
        assert TrafficRequest.of(ledger.entries("tiny", TrafficRequest.requested)[-1]) == request
        divide(request.change)
        end(ledger, request, {"version": "6"})
        return {"version": "6", "seconds": 0.4, "switch_seconds": 0.01}

    monkeypatch.setattr(roll_back, "wait", standby)
    found = run_traffic(local_settings, "tiny", wanted)
    assert (found["shares"], found["switch_seconds"]) == ({"6": 0.5, "7": 0.5}, 0.01)


def test_the_history_tells_it(divide: Callable[..., None], ledger: Ledger) -> None:
    divide(change_of(["7=0.1", "6=0.9"], ["acme=7"], shadow="8=0.2"))
    (entry,) = ledger.entries("tiny", TRAFFIC)
    told = "90.00% to version 6, 10.00% to version 7, customer acme to version 7, shadow version 8 20.00%"
    assert why(entry) == told
