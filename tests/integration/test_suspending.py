"""A flow run that waits for a person, on a real Prefect server. The test plays the worker: it starts each life."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.approve import add_approver, answer_request, list_requests, print_code
from infra.local.environment import environment
from infra.local.ports import free_ports
from millrace.errors import ApprovalError, ConflictError
from millrace.ledger import Ledger
from millrace.scaffold.write import create_pipeline
from millrace.settings import Settings
from tasks.approval_watch import LOOK_SECONDS, ApprovalWatch
from tasks.prefect_api import flow_state
from tests.e2e.conftest import drifting_table

pytestmark = pytest.mark.drill

_ROOT = Path(__file__).resolve().parents[2]
_FLOW = """
from pathlib import Path
from prefect import flow
from tasks.approval import refused_training
from tasks.run import open_run
from tasks.slots import holding

@flow(name="asks", persist_result=False)
def asks(pipeline: str):
    with open_run("asks", pipeline, None, "person:somebody-else") as opened, holding(opened, "training") as run:
        refusal = refused_training(run, None)
        (Path(__file__).parent / run.id).write_text(refusal or "approved")
"""


class Stage:
    """A Prefect server, a deployment of the flow above, and its pipelines."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.ledger = Ledger(settings.ledger)
        self.deployment = ""

    def api(self, method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, f"{self.settings.prefect_api_url}{path}", json=body, timeout=30)
        return answer.raise_for_status().json() if answer.content else None

    def deploy(self) -> None:
        (self.folder / "asks.py").write_text(_FLOW)
        flow = self.api("POST", "/flows/", {"name": "asks"})["id"]
        pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(self.folder)}}]
        body = {"name": "asks", "flow_id": flow, "entrypoint": "asks.py:asks", "pull_steps": pull, "tags": ["millrace"]}
        self.deployment = self.api("POST", "/deployments/", body)["id"]

    def pipeline(self, name: str, **approvals: float) -> None:
        table = self.folder / f"{name}.csv"
        drifting_table(table, num_rows=500)
        made = create_pipeline(name, str(table), time="asked_at", label="left", pipelines_dir=self.settings.pipelines)
        path = made.folder / "pipeline.yaml"
        lines = "".join(f"  {key}: {value}\n" for key, value in approvals.items())
        path.write_text(f"{path.read_text()}\napprovals:\n  retrain: true\n{lines}")

    def start(self, name: str) -> str:
        """A new flow run, in its first life."""
        body = {"parameters": {"pipeline": name}, "state": {"type": "SCHEDULED"}}
        run = str(self.api("POST", f"/deployments/{self.deployment}/create_flow_run", body)["id"])
        self.live(run)
        return run

    def live(self, run: str) -> None:
        """One life of a flow run, until its process ends; it ends well."""
        self.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": "PENDING"}})
        env = os.environ | {"PREFECT__FLOW_RUN_ID": run, "PYTHONPATH": str(_ROOT)}
        command = [sys.executable, "-m", "prefect.engine"]
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    def state(self, run: str) -> str:
        return flow_state(self.settings, run).state

    def fill(self, run: str, **values: str) -> str:
        """Fill in the form, as the Prefect UI does; whether the server takes it."""
        return str(self.api("POST", f"/flow_runs/{run}/resume", {"run_input": values})["status"])

    def form(self, run: str, part: str) -> Any:
        keys = self.api("GET", f"/flow_runs/{run}")["state"]["state_details"]["run_input_keyset"]
        return self.api("GET", f"/flow_runs/{run}/input/{keys[part]}")

    def outcome(self, run: str) -> str | None:
        path = self.folder / run
        return path.read_text() if path.exists() else None

    def request(self, name: str) -> str:
        (found,) = list_requests(self.settings, name, everything=False)["requests"]
        return str(found["request"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, eventually: Callable[..., Any]) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("asks")
    (port,) = free_ports(1)
    settings = Settings(
        state_dir=folder / "state",
        pipelines_dir=folder / "pipelines",
        prefect_url=f"http://127.0.0.1:{port}",
        approver_keys=folder / "keys",
    )
    settings.pipelines.mkdir()
    (settings.state / "prefect").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment(settings) | settings.environment()).items():
            patch.setenv(name, value)
        with (folder / "server.log").open("w") as log:
            command = [sys.executable, "-m", "infra.local.run_web", "prefect"]
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            eventually(lambda: _answers(settings), f"Prefect's server ({folder / 'server.log'})", 180.0)
            made = Stage(settings, folder)
            made.deploy()
            add_approver(settings, "alice", public=None, person="alice", by=None)
            yield made
        finally:
            server.terminate()
            server.wait()


def _answers(settings: Settings) -> bool:
    try:
        return httpx.get(f"{settings.prefect_api_url}/health").is_success
    except httpx.HTTPError:
        return False


def test_it_waits_without_a_process_and_asks_again_until_the_code_counts(stage: Stage) -> None:
    stage.pipeline("asked")
    run = stage.start("asked")
    assert stage.state(run) == "PAUSED"
    assert stage.ledger.slots.holder("asked", "training") is None, "the slot is free while it waits"
    assert stage.ledger.heartbeats.all() == []
    request = stage.request("asked")
    shown = stage.api("POST", "/artifacts/filter", {"artifacts": {"key": {"any_": ["asked-approval"]}}})
    for text in (shown[0]["data"], stage.form(run, "description")):
        assert f"millrace approve {request} --code" in text
        assert "person:somebody-else" in text
    assert set(stage.form(run, "schema")["properties"]) == {"decision", "code", "reason"}

    assert stage.fill(run, decision="perhaps", code="x") == "REJECT"
    assert stage.fill(run, decision="approve") == "REJECT"
    assert stage.state(run) == "PAUSED", "what the schema refuses leaves the form as it is"
    for tries, code in enumerate(("no code", "ask-" + "0" * 20), start=1):
        assert stage.fill(run, decision="approve", code=code) == "ACCEPT"
        stage.live(run)
        assert stage.state(run) == "PAUSED"
        assert "Not taken: this is no approval code" in stage.form(run, "description")
        assert f"{5 - tries} tries left" in stage.form(run, "description")
    assert stage.outcome(run) is None

    code = print_code(stage.settings, request, "approve", None)["code"]
    assert stage.fill(run, decision="reject", code=code) == "ACCEPT"
    stage.live(run)
    assert "the code says approve, the form reject" in stage.form(run, "description")
    assert stage.fill(run, decision="approve", code=code, reason="looks right") == "ACCEPT"
    stage.live(run)
    assert (stage.state(run), stage.outcome(run)) == ("COMPLETED", "approved")
    with pytest.raises(ConflictError, match="is used"):
        answer_request(stage.settings, request, "approve", None, "")


def test_the_command_answers_and_resumes(stage: Stage) -> None:
    stage.pipeline("told")
    run = stage.start("told")
    done = answer_request(stage.settings, stage.request("told"), "reject", "alice", "not today")
    assert done["resumed"] == [run]
    assert stage.state(run) == "SCHEDULED"
    stage.live(run)
    assert (stage.state(run), stage.outcome(run)) == ("COMPLETED", "rejected by alice (not today)")


def test_an_answer_counts_while_prefect_is_away_and_the_watch_resumes(stage: Stage) -> None:
    stage.pipeline("later")
    run = stage.start("later")
    (nowhere,) = free_ports(1)
    away = stage.settings.model_copy(update={"prefect_url": f"http://127.0.0.1:{nowhere}"})
    done = answer_request(away, stage.request("later"), "approve", None, "")
    assert done["resumed"] == []
    assert "goes on when Prefect is back" in done["note"]
    assert stage.state(run) == "PAUSED"
    ApprovalWatch(stage.settings, stage.ledger).tick()
    assert stage.state(run) == "SCHEDULED"
    stage.live(run)
    assert stage.outcome(run) == "approved"


def test_without_an_answer_in_time_it_is_refused(stage: Stage, eventually: Callable[..., Any]) -> None:
    stage.pipeline("silent", expires_hours=0.01)
    run = stage.start("silent")
    seconds = iter(range(0, 10_000, int(LOOK_SECONDS)))
    watch = ApprovalWatch(stage.settings, stage.ledger, lambda: float(next(seconds)))
    request = list_requests(stage.settings, "silent", everything=True)["requests"][0]["request"]
    eventually(lambda: (watch.tick(), stage.state(run) == "SCHEDULED")[1], "the end of its time")
    with pytest.raises((ConflictError, ApprovalError), match="is expired"):
        answer_request(stage.settings, request, "approve", None, "")
    stage.live(run)
    assert stage.state(run) == "COMPLETED"
    assert str(stage.outcome(run)).startswith("approval expired")


def test_a_life_that_is_started_without_an_answer_waits_again(stage: Stage) -> None:
    """Somebody presses "retry" in the UI: the form is asked anew, nothing is lost."""
    stage.pipeline("pressed")
    run = stage.start("pressed")
    body = {"state": {"type": "SCHEDULED"}, "force": True}
    stage.api("POST", f"/flow_runs/{run}/set_state", body)
    stage.live(run)
    assert stage.state(run) == "PAUSED"
    code = print_code(stage.settings, stage.request("pressed"), "approve", None)["code"]
    assert stage.fill(run, decision="approve", code=code) == "ACCEPT"
    stage.live(run)
    assert stage.outcome(run) == "approved"
