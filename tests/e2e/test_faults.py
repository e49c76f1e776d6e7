"""What goes wrong on the way: a worker killed, a source with bad rows, a pipeline.yaml broken while all runs."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest

from millrace.goodput import Goodput
from millrace.ledger import Ledger
from millrace.scaffold.write import create_pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore
from ray_jobs.train.accounts import Accounts
from tests.e2e.conftest import drifting_table, set_values
from tests.live import Millrace

Eventually = Callable[[Callable[[], Any], str], Any]


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_a_training_survives_a_worker_that_is_killed_and_one_that_hangs(
    millrace: Millrace, live_settings: Settings, eventually: Eventually
) -> None:
    epochs = 300
    _pipeline(live_settings, "endures", epochs=epochs, patience=epochs)
    answers: list[subprocess.CompletedProcess[str]] = []
    training = threading.Thread(
        target=lambda: answers.append(millrace("run", "endures", "--as-of", "2024-02-01", "--json"))
    )
    training.start()
    checkpoints = Path(live_settings.objects) / "checkpoints" / "endures"

    def generation() -> int:
        """Each attempt has one of its own."""
        return max((int(path.parent.name[1:7]) for path in checkpoints.glob("*/g*-s*/manifest.json")), default=0)

    for strike in (signal.SIGKILL, signal.SIGSTOP):
        before = generation()
        eventually(lambda before=before: generation() > before, "a checkpoint of this attempt")
        (worker,) = _train_workers(live_settings)
        worker.send_signal(strike)
        eventually(lambda worker=worker: not worker.is_running() or worker.status() == "zombie", "its end")
    training.join()
    (done,) = answers
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["trained"] is True
    store = ObjectStore.of(live_settings)
    (key,) = (path.name for path in checkpoints.iterdir())
    told = Accounts(store, f"goodput/endures/{key}").read()
    assert [attempt.outcome for attempt in told] == ["failed", "hung", "finished"]
    assert told[1].resumed_step is not None
    assert 0 < told[1].resumed_step <= (told[2].resumed_step or 0)
    history = store.get(f"packages/endures/{key}").lineage["history"]
    assert [each["round"] for each in history] == list(range(1, epochs + 1)), "each validation once, none lost"
    goodput = Goodput.of(told)
    assert abs(goodput.unexplained) < 0.001
    assert goodput.seconds["restart"] > 0


def test_a_source_with_bad_rows_is_refused_with_its_reasons(millrace: Millrace, live_settings: Settings) -> None:
    folder = _pipeline(live_settings, "dirty")
    table = live_settings.pipelines.parent / "dirty.csv"
    rows = pd.read_csv(table)
    rows.loc[rows.index % 4 == 0, "x"] = 1e6
    rows.loc[rows.index % 40 == 1, "plan"] = "platinum"
    rows.to_csv(table, index=False)
    spec = (folder / "pipeline.yaml").read_bytes()

    done = millrace("run", "dirty", "--as-of", "2024-02-01")

    assert done.returncode == 3
    assert "quarantined" in done.stderr
    assert "x: above" in done.stderr
    assert "plan: not an allowed category" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(millrace("versions", "dirty", "--json").stdout)["versions"] == []
    assert httpx.get(f"{live_settings.serve_url}/v1/dirty/ready").status_code == 404
    assert (folder / "pipeline.yaml").read_bytes() == spec
    store = ObjectStore.of(live_settings)
    reasons = set()
    for path in (Path(live_settings.objects) / "staged" / "dirty" / "shards").iterdir():
        quarantine = store.get(f"staged/dirty/shards/{path.name}").read("quarantine.parquet")
        reasons |= set(pd.read_parquet(io.BytesIO(quarantine))["quarantine_reason"].str.partition(":")[0])
    assert reasons == {"x", "plan"}


def test_a_spec_that_breaks_while_all_runs_stops_at_the_command(millrace: Millrace, live_settings: Settings) -> None:
    folder = _pipeline(live_settings, "typo")
    path = folder / "pipeline.yaml"
    path.write_text(path.read_text().replace("metric: roc_auc", "metric: roc_acu"))
    before = _flow_runs(live_settings)
    done = millrace("run", "typo")
    assert done.returncode == 2
    assert "field 'evaluation.metric': got 'roc_acu'" in done.stderr
    assert "Traceback" not in done.stderr
    assert _flow_runs(live_settings) == before, "no flow run was started for it"
    assert Ledger(live_settings.ledger).entries("typo") == []


def test_the_scheduler_plans_the_checks(live_settings: Settings, eventually: Eventually) -> None:
    """A lock that breaks Prefect's scheduler passes every other test."""
    body = {
        "deployments": {"name": {"any_": ["monitoring"]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    eventually(
        lambda: httpx.post(f"{live_settings.prefect_api_url}/flow_runs/count", json=body).json(), "a scheduled check"
    )


def _pipeline(settings: Settings, name: str, **values: float) -> Path:
    """A small pipeline of its own for this test."""
    table = settings.pipelines.parent / f"{name}.csv"
    drifting_table(table, num_rows=4000)
    made = create_pipeline(name, str(table), time="asked_at", label="left", pipelines_dir=settings.pipelines)
    set_values(made.folder / "pipeline.yaml", {"window_days": 10.0, "validation_days": 5.0, "epochs": 4, **values})
    return made.folder


def _train_workers(settings: Settings) -> list[psutil.Process]:
    """The training workers of this stack; other stacks may train on the same machine."""
    mark = str(settings.state)
    found = []
    for process in psutil.process_iter():
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()) and mark in "".join(process.environ().values()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _flow_runs(settings: Settings) -> int:
    body = {"flow_runs": {"state": {"name": {"not_any_": ["Scheduled"]}}}}
    return int(httpx.post(f"{settings.prefect_api_url}/flow_runs/count", json=body).json())
