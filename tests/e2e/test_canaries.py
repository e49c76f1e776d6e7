"""No secret in logs, artifacts, events, parameters, results or answers: canaries are planted, and none is found."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from benchmarks.reliability.canaries import Planting
from benchmarks.reliability.leaks import pages, scan
from benchmarks.reliability.nest import Nest
from infra.local.layout import Layout
from millrace.settings import Settings
from tests.live import Millrace

pytestmark = pytest.mark.drill


@pytest.fixture(scope="module")
def planted(planting: Planting, live_settings: Settings, millrace: Millrace) -> Planting:
    planting.plant(live_settings, millrace)
    return planting


def test_nothing_tells_a_canary(planted: Planting, live_settings: Settings) -> None:
    assert planted.nest.left == 0, "all are planted"
    assert scan(live_settings, planted.nest, planted.texts) == {}, f"seed {planted.nest.seed}"


def test_what_held_them_did_get_there(planted: Planting, live_settings: Settings) -> None:
    """Else nothing would be found for a worse reason."""
    with httpx.Client(base_url=live_settings.prefect_api_url) as client:
        told = "".join(log["message"] for log in pages(client, "/logs/filter"))
    assert "mongodb+srv://***@a.example.com" in told
    assert "aws_secret_access_key=***" in told
    printed = "".join(
        path.read_text(errors="replace")
        for path in Layout(live_settings.state).ray_temp.glob("session_2*/logs/worker-*")
    )
    assert "postgresql://***@db.example.com:5432/rows" in printed
    assert '"SecretAccessKey": "***"' in printed
    assert any("https://127.0.0.1:9/r.csv does not exist" in text for _, text in planted.texts)


def test_a_leak_is_found_wherever_it_is(planted: Planting, live_settings: Settings, tmp_path: Path) -> None:
    nest = Nest(4, planted.nest.seed + 1)
    logged, filed, printed, argument = nest.take(4)
    entry = {"name": "leak", "level": 20, "message": f"a {logged}", "timestamp": "2026-01-01T00:00:00Z"}
    httpx.post(f"{live_settings.prefect_api_url}/logs/", json=[entry]).raise_for_status()
    file = live_settings.state / "logs" / "leak.json"
    file.write_text(json.dumps({"hex": filed.encode().hex()}))
    try:
        found = scan(live_settings, nest, [("the terminal", f"see {printed}")])
    finally:
        file.unlink()
    assert found["Prefect's logs"] == {logged}
    assert any(place.startswith(f"{live_settings.state}/prefect/prefect.db") for place in found)
    assert found[str(file)] == {"a piece, hex"}
    assert found["the terminal"] == {printed}
    assert all(argument not in canaries for canaries in found.values())
