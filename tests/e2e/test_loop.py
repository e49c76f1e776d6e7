"""The loop through the real endpoint: train, serve, replay, check, incident, retrain, promote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace.inference_log import inference_folder, read_joined
from millrace.ledger import Incident, Ledger
from millrace.pipeline import load_pipeline
from millrace.settings import Settings
from tasks.prefect_api import flow_state
from tasks.responses import send_event

FIRST, LAST = "2024-02-01", "2024-05-01"


@pytest.fixture(scope="session")
def looped(millrace: Any, churn: str) -> dict[str, Any]:
    """The demo's answer on the drifting pipeline."""
    done = millrace("demo", churn, "--first", FIRST, "--last", LAST, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_it_ends_with_a_table_by_window(looped: dict[str, Any], live_settings: Settings) -> None:
    assert looped["months"][0]["month"].startswith("2024-0")
    assert all(month["rows"] > 0 and month["version"] for month in looped["months"])
    written = json.loads((live_settings.state / "demo" / "summary.json").read_text())
    for field in ("seconds_to_first_prediction", "seconds_total", "auc_static_mean", "auc_live_mean", "incidents"):
        assert written[field] == looped[field]
    assert 0 < looped["seconds_to_first_prediction"] < looped["seconds_total"]


def test_a_changed_world_is_noticed_and_learned(looped: dict[str, Any]) -> None:
    assert looped["incidents"] >= 1
    assert looped["retrains"] == looped["promotions"] + looped["refused"] == looped["incidents"]
    assert looped["promotions"] >= 1
    assert looped["auc_live_mean"] > looped["auc_static_mean"] + 0.05


def test_every_answer_is_logged_with_its_outcome(looped: dict[str, Any], live_settings: Settings, churn: str) -> None:
    spec = load_pipeline(churn, live_settings.pipelines).spec
    rows = read_joined(inference_folder(live_settings, churn), spec.data)
    replayed = sum(month["rows"] for month in looped["months"])
    assert rows["label"].notna().sum() >= replayed
    assert set(rows["version"]) >= {month["version"] for month in looped["months"]}
    assert not rows.duplicated(["request_id", "row"]).any()


def test_each_incident_has_one_training_however_often_its_event_comes(
    looped: dict[str, Any], live_settings: Settings, churn: str, eventually: Any
) -> None:
    ledger = Ledger(live_settings.ledger)
    incident = ledger.outbox.of(churn)[0]
    before = _flow_runs(live_settings, "respond")
    assert incident.response is not None
    send_event(live_settings, Incident(**{**_fields(incident), "evidence": {"again": True}}))
    # The event's id names fact and minute; one with a fresh id stands for a duplicate that Prefect does not notice.
    _send_with_fresh_id(live_settings, incident)
    eventually(lambda: _flow_runs(live_settings, "respond") > before, "a second respond run")
    eventually(lambda: _all_final(live_settings, "respond"), "the end of the respond runs")
    answers = [run for run in _runs(live_settings, "training") if run["parameters"].get("incident") == incident.key]
    assert [run["id"] for run in answers] == [incident.response]
    assert ledger.outbox.find(incident.key) == incident


def test_an_event_that_names_no_incident_starts_nothing(
    looped: dict[str, Any], live_settings: Settings, millrace: Any
) -> None:
    from millrace.errors import UnknownNameError
    from tasks.responses import find_incident

    with pytest.raises(UnknownNameError, match="no incident 'incident-forged'"):
        find_incident(Ledger(live_settings.ledger), "incident-forged")


def test_flows_leave_artifacts_for_people(looped: dict[str, Any], live_settings: Settings, churn: str) -> None:
    body = {"limit": 200, "sort": "CREATED_DESC"}
    found = httpx.post(f"{live_settings.prefect_api_url}/artifacts/filter", json=body).json()
    texts = {artifact["key"]: artifact["data"] for artifact in reversed(found) if artifact["key"]}
    assert "digest" in texts[f"{churn}-staged"]
    assert "data:image/svg+xml" in texts[f"{churn}-training"]
    assert "Judged on" in texts[f"{churn}-verdict"]
    assert "Evidently's report" in texts[f"{churn}-check"]
    assert "in the registry" in texts[f"{churn}-rollout"]


def test_a_second_identical_run_does_no_training(
    looped: dict[str, Any], millrace: Any, churn: str, live_settings: Settings
) -> None:
    answered = [
        incident for incident in Ledger(live_settings.ledger).outbox.of(churn) if incident.outcome == "promoted"
    ]
    done = millrace("run", churn, "--as-of", answered[-1].window.end.isoformat(), "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["outcome"], outcome["trained"]) == ("unchanged", False)


def test_the_demo_started_again_goes_on_where_it_was(looped: dict[str, Any], millrace: Any, churn: str) -> None:
    again = millrace("demo", churn, "--first", FIRST, "--last", LAST, "--json")
    assert again.returncode == 0, again.stderr
    answer = json.loads(again.stdout)
    assert [month["live"] for month in answer["months"]] == [month["live"] for month in looped["months"]]
    assert answer["retrains"] == looped["retrains"]


def test_rollback_serves_the_version_before(
    looped: dict[str, Any], millrace: Any, churn: str, live_settings: Settings
) -> None:
    serving = httpx.get(f"{live_settings.serve_url}/v1/{churn}/").json()["version"]
    done = millrace("rollback", churn, "--json")
    assert done.returncode == 0, done.stderr
    back = json.loads(done.stdout)["version"]
    assert back != serving
    assert httpx.get(f"{live_settings.serve_url}/v1/{churn}/").json()["version"] == back
    listed = json.loads(millrace("versions", churn, "--json").stdout)["versions"]
    assert [version["version"] for version in listed if "champion" in version["aliases"]] == [back]
    forward = millrace("rollback", churn, "--to", serving, "--json")
    assert json.loads(forward.stdout)["version"] == serving


def test_bad_input_to_the_endpoint_is_a_problem_document(
    looped: dict[str, Any], live_settings: Settings, churn: str
) -> None:
    answer = httpx.post(
        f"{live_settings.serve_url}/v1/{churn}/predict",
        json={"rows": [{"x": 0.1, "y": "tall", "plan": "basic"}]},
        headers=live_settings.serve_headers,
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == "/rows/0/y"


def test_a_model_version_has_signature_metrics_lineage_and_card(
    looped: dict[str, Any], millrace: Any, churn: str, live_settings: Settings, tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from mlflow.models import Model

    version = json.loads(millrace("versions", churn, "--json").stdout)["versions"][0]
    assert version["tags"]["millrace.data_digest"]
    assert version["tags"]["millrace.verdict"].startswith("promotion:")
    client = MlflowClient(tracking_uri=live_settings.mlflow_url)
    folder = Path(client.download_artifacts(version["run_id"], "model", str(tmp_path)))
    assert Model.load(str(folder)).signature.inputs.input_names() == ["x", "y", "plan"]
    assert (folder / "model_card.md").read_text().startswith(f"# {churn}")
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json", ".parquet", ".md", ""}
    history = client.get_metric_history(version["run_id"], "validation_loss")
    assert len({point.step for point in history}) >= 2


def _fields(incident: Incident) -> dict[str, Any]:
    return {name: getattr(incident, name) for name in ("pipeline", "version", "kind", "window", "evidence")}


def _send_with_fresh_id(settings: Settings, incident: Incident) -> None:
    import uuid

    event = {
        "id": str(uuid.uuid4()),
        "occurred": "2024-05-01T00:00:00+00:00",
        "event": "millrace.incident.opened",
        "resource": {"prefect.resource.id": f"millrace.pipeline.{incident.pipeline}"},
        "payload": {"incident": incident.key},
    }
    from datetime import UTC, datetime

    event["occurred"] = datetime.now(UTC).isoformat()
    httpx.post(f"{settings.prefect_api_url}/events", json=[event]).raise_for_status()


def _runs(settings: Settings, flow: str) -> list[dict[str, Any]]:
    body = {"flows": {"name": {"any_": [flow]}}, "limit": 200}
    return list(httpx.post(f"{settings.prefect_api_url}/flow_runs/filter", json=body).json())


def _flow_runs(settings: Settings, flow: str) -> int:
    return len(_runs(settings, flow))


def _all_final(settings: Settings, flow: str) -> bool:
    return all(flow_state(settings, run["id"]).is_final for run in _runs(settings, flow))
