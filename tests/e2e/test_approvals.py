"""A promotion that waits for a person: suspended without a process, answered by a command or by the form in the UI."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from millrace.approvals.requests import pending
from millrace.ledger import Ledger
from millrace.scaffold.write import create_pipeline
from millrace.settings import Settings
from tasks.prefect_api import flow_state, submit
from tests.e2e.conftest import drifting_table, set_values
from tests.live import Millrace

pytestmark = pytest.mark.drill

Eventually = Callable[[Callable[[], Any], str], Any]
ASKER = "person:somebody-else"


@pytest.fixture(scope="session")
def approver(millrace: Millrace, live_settings: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command as the approver `alice` uses it, with her own folder of keys."""
    keys = str(live_settings.state.parent / "keys")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return millrace(*arguments, MILLRACE_APPROVER_KEYS=keys)

    added = run("approvers", "add", "alice", "--json")
    assert added.returncode == 0, added.stderr
    assert Path(json.loads(added.stdout)["key"]).stat().st_mode & 0o777 == 0o600
    return run


def test_an_approved_promotion_goes_on_and_one_that_is_rejected_does_not(
    approver: Millrace, live_settings: Settings, eventually: Eventually
) -> None:
    name = "asked"
    _pipeline(live_settings, name)
    first = _suspended(live_settings, name, eventually, "2024-02-01")
    ledger = Ledger(live_settings.ledger)
    assert ledger.serving(name) is None
    assert ledger.slots.holder(name, "training") is None, "others may train meanwhile"
    eventually(lambda: not _processes(first), "the end of the flow run's process")

    texts = [a["data"] for a in _artifacts(live_settings, f"{name}-approval")]
    request = json.loads(approver("approvals", name, "--json").stdout)["requests"][0]
    assert any(request["subject"] in text and "verdict" in text for text in texts), "the evidence is in the UI"
    told = approver("approvals", name)
    assert request["request"] in told.stdout

    # Bad input: what the form's schema refuses stays a form, and what does not count asks again.
    refused = _fill(live_settings, first, {"decision": "perhaps", "code": "x"})
    assert refused["status"] == "REJECT"
    filled = _fill(live_settings, first, {"decision": "approve", "code": "no code at all"})
    assert filled["status"] == "ACCEPT"
    eventually(lambda: _tries(ledger, name) == 1, "the try that is recorded")
    eventually(lambda: flow_state(live_settings, first).state == "PAUSED", "the form once more")
    assert ledger.serving(name) is None
    assert "Not taken" in _description(live_settings, first)

    # The code that the command prints does the same as the command.
    code = approver("approve", request["request"], "--code").stdout.strip()
    assert ledger.serving(name) is None, "printing a code decides nothing"
    assert _fill(live_settings, first, {"decision": "approve", "code": code, "reason": "fine"})["status"] == "ACCEPT"
    eventually(lambda: _has_ended(live_settings, first), "the end of the training")
    serving = ledger.serving(name)
    assert serving is not None
    assert serving.detail["package"] == request["subject"]
    promoted = ledger.decisions(name, "promoted")[-1]
    assert promoted.detail["approval"] == request["request"]

    # Used once.
    again = approver("approve", request["request"])
    assert again.returncode == 7
    assert "is used" in again.stderr

    second = _suspended(live_settings, name, eventually, "2024-03-01")
    (open_one,) = pending(ledger, name)
    replayed = _fill(live_settings, second, {"decision": "approve", "code": code})
    assert replayed["status"] == "ACCEPT"
    eventually(lambda: _tries(ledger, name) == 2, "the replay that is recorded")
    eventually(lambda: flow_state(live_settings, second).state == "PAUSED", "the form once more")
    done = approver("reject", open_one.request.id, "--reason", "not now", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == [second]
    eventually(lambda: _has_ended(live_settings, second), "the end of the second training")
    assert ledger.serving(name) == serving, "the champion stays"
    outcome = ledger.entries(name, "trained", subject=second)[-1].detail
    assert outcome["outcome"] == "refused"
    assert outcome["reasons"][0] == "rejected by alice (not now)"


def test_without_an_answer_in_time_nothing_serves(
    approver: Millrace, live_settings: Settings, eventually: Eventually
) -> None:
    name = "ignored"
    _pipeline(live_settings, name, expires_hours=0.004)
    run = _start(live_settings, name, "2024-02-01")
    ledger = Ledger(live_settings.ledger)
    eventually(lambda: ledger.entries(name, "approval_awaited", subject=run), "the request")
    # Nobody answers; the reconciler has it go on when the time is over.
    eventually(lambda: _has_ended(live_settings, run), "the end of the training")
    outcome = ledger.entries(name, "trained", subject=run)[-1].detail
    assert outcome["outcome"] == "refused"
    assert outcome["reasons"][0].startswith("approval expired")
    assert ledger.serving(name) is None
    late = approver("approve", json.loads(approver("approvals", "--all", "--json").stdout)["requests"][-1]["request"])
    assert late.returncode == 7


def test_who_asks_may_not_approve_himself(approver: Millrace, live_settings: Settings) -> None:
    name = "own"
    _pipeline(live_settings, name)
    waiting = approver("run", name, "--as-of", "2024-02-01", "--json")
    assert waiting.returncode == 0, waiting.stderr
    answer = json.loads(waiting.stdout)
    assert answer["outcome"] == "waiting"
    request = answer["requests"][0]["request"]
    done = approver("approve", request)
    assert done.returncode == 8
    assert "asked for it himself" in done.stderr
    assert flow_state(live_settings, answer["flow_run"]).state == "PAUSED"


def test_looser_thresholds_wait_and_a_rejection_stops_the_training(
    approver: Millrace, live_settings: Settings, eventually: Eventually
) -> None:
    name = "loosened"
    folder = _pipeline(live_settings, name, promote=False, change_threshold=True)
    first = _start(live_settings, name, "2024-02-01")
    eventually(lambda: _has_ended(live_settings, first), "the first training")
    ledger = Ledger(live_settings.ledger)
    serving = ledger.serving(name)
    assert serving is not None, "the first thresholds are taken as they are"
    path = folder / "pipeline.yaml"
    path.write_text(path.read_text().replace("change_threshold: true", "change_threshold: false"))
    second = _suspended(live_settings, name, eventually, "2024-03-01")
    (waits,) = pending(ledger, name)
    assert waits.request.summary == "approvals.change_threshold: True -> False"
    assert approver("reject", waits.request.id).returncode == 0
    eventually(lambda: _has_ended(live_settings, second), "the end of the second training")
    state = flow_state(live_settings, second)
    assert state.state == "FAILED"
    assert "are not accepted: rejected by alice" in state.message
    assert ledger.serving(name) == serving


def _pipeline(settings: Settings, name: str, **approvals: Any) -> Path:
    table = settings.pipelines.parent / f"{name}.csv"
    drifting_table(table)
    made = create_pipeline(name, str(table), time="asked_at", label="left", pipelines_dir=settings.pipelines)
    path = made.folder / "pipeline.yaml"
    set_values(path, {"window_days": 10.0, "validation_days": 5.0, "lookback_days": 20.0, "epochs": 6})
    lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in {"promote": True, **approvals}.items())
    path.write_text(f"{path.read_text()}\napprovals:\n{lines}")
    return made.folder


def _start(settings: Settings, name: str, as_of: str) -> str:
    parameters = {"pipeline": name, "as_of": f"{as_of}T00:00:00+00:00", "requested_by": ASKER}
    return submit(settings, "training/training", parameters)


def _suspended(settings: Settings, name: str, eventually: Eventually, as_of: str) -> str:
    run = _start(settings, name, as_of)

    def waits() -> bool:
        state = flow_state(settings, run)
        # A run that crashed (on a busy machine, one that was late) goes on.
        assert state.state not in ("FAILED", "COMPLETED"), state.message
        return state.state == "PAUSED"

    eventually(waits, "the flow run that is suspended")
    return run


def _has_ended(settings: Settings, run: str) -> bool:
    return flow_state(settings, run).state in ("COMPLETED", "FAILED")


def _fill(settings: Settings, run: str, values: dict[str, str]) -> dict[str, Any]:
    """Fill in the form, as the Prefect UI does; a person presses again when the server is busy."""
    while True:
        answer = httpx.post(
            f"{settings.prefect_api_url}/flow_runs/{run}/resume", json={"run_input": values}, timeout=30
        )
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return dict(answer.raise_for_status().json())


def _description(settings: Settings, run: str) -> str:
    """What the newest form says."""
    found = httpx.get(f"{settings.prefect_api_url}/flow_runs/{run}").raise_for_status().json()
    key = found["state"]["state_details"]["run_input_keyset"]["description"]
    return str(httpx.get(f"{settings.prefect_api_url}/flow_runs/{run}/input/{key}").raise_for_status().json())


def _artifacts(settings: Settings, key: str) -> list[dict[str, Any]]:
    body = {"artifacts": {"key": {"any_": [key]}}, "limit": 20}
    return list(httpx.post(f"{settings.prefect_api_url}/artifacts/filter", json=body).raise_for_status().json())


def _tries(ledger: Ledger, name: str) -> int:
    return len(ledger.entries(name, "approval_try_refused"))


def _processes(flow_run: str) -> list[int]:
    """The processes of a flow run."""
    found = []
    for process in psutil.process_iter():
        try:
            if flow_run in "".join(process.environ().values()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found
