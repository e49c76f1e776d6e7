"""A version that answers badly is rolled back by itself, once; a command under load loses and mixes up no answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.reliability.rollback import bodies, measure_on
from millrace.ledger import Ledger
from millrace.pipeline import load_pipeline
from millrace.scaffold.write import create_pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore
from tasks.guard_watch import BREACHED
from tasks.registry import Registry
from tasks.rollout import ROLLED_BACK
from tests.e2e.conftest import FIRST, LAST, drifting_table, set_values
from tests.live import Millrace

Eventually = Callable[[Callable[[], Any], str], Any]

#: What no training row has, so that the version passes its gate and fails its callers.
_TROUBLE = """

_build_sound = build


def build(inputs, options):
    options = dict(options)
    trouble = options.pop("trouble", "")
    module = _build_sound(inputs, options)

    def hook(_module, given, answer):
        if not (given[0]["numeric"] > 50).any():
            return answer
        if trouble == "raise":
            raise RuntimeError("a secret of the caller")
        if trouble == "nan":
            return answer * float("nan")
        if trouble == "slow":
            __import__("time").sleep(0.2)
        return answer

    module.register_forward_hook(hook)
    return module
"""
_GUARD = {"min_requests": 30, "max_failed_share": 0.2, "max_p99_ms": 100.0, "window_seconds": 60.0}


@pytest.fixture(scope="module")
def guarded(live_settings: Settings, millrace: Millrace) -> str:
    """A pipeline with two replicas that serves a version of before the drift: each later one passes its gate."""
    name, table = "guarded", live_settings.pipelines.parent / "guarded.csv"
    drifting_table(table)
    made = create_pipeline(name, str(table), time="asked_at", label="left", pipelines_dir=live_settings.pipelines)
    set_values(
        made.folder / "pipeline.yaml",
        {"epochs": 8, "window_days": 10.0, "validation_days": 5.0, "lookback_days": 20.0, "replicas": 2},
    )
    _change(made.folder, lambda spec: spec["data"]["features"]["x"].pop("max", None))
    with (made.folder / "model.py").open("a") as code:
        code.write(_TROUBLE)
    _train(millrace, name, FIRST)
    return name


def test_rollbacks_under_load_lose_nothing_and_mix_up_nothing(
    guarded: str, live_settings: Settings, millrace: Millrace
) -> None:
    _train(millrace, guarded, LAST)
    # An odd number: the first version serves in the end.
    found = measure_on(live_settings, guarded, rollbacks=5, threads=4)["rollback"]
    assert (found["failed"], found["mis_versioned"]) == (0, 0), found
    assert found["requests"] > 400


@pytest.mark.drill
@pytest.mark.parametrize(
    ("trouble", "metric"), [("raise", "failed_share"), ("nan", "failed_share"), ("slow", "p99_ms")]
)
def test_a_bad_version_is_rolled_back_by_itself_once(
    guarded: str, live_settings: Settings, millrace: Millrace, eventually: Eventually, trouble: str, metric: str
) -> None:
    ledger = Ledger(live_settings.ledger)
    before = ledger.serving(guarded)
    assert before is not None

    def make_bad(spec: dict[str, Any]) -> None:
        spec.setdefault("model", {}).setdefault("options", {})["trouble"] = trouble
        spec["serving"]["guard"] = _GUARD

    _change(live_settings.pipelines / guarded, make_bad)
    _train(millrace, guarded, LAST)
    bad = ledger.serving(guarded)
    assert bad is not None
    assert bad.sequence != before.sequence, "the bad version passed its gate"

    strange = json.loads(bodies(load_pipeline(guarded, live_settings.pipelines))[0])
    for row in strange["rows"]:
        row["x"] = 99.0
    url = f"{live_settings.serve_url}/v1/{guarded}"

    def back() -> bool:
        """Ask what breaks the bad version, and then who answers."""
        httpx.post(f"{url}/predict", json=strange, headers=live_settings.serve_headers, timeout=10)
        return bool(httpx.get(f"{url}/ready", timeout=10).json()["version"] == before.subject)

    eventually(back, "the version before")
    now = eventually(lambda: _newer(ledger, guarded, bad.sequence), "the entry of what serves")
    assert now.subject == before.subject
    (breach,) = [entry for entry in ledger.entries(guarded, BREACHED) if entry.detail["serving"] == bad.sequence]
    assert (breach.subject, breach.detail["verdict"]["metric"]) == (bad.subject, metric)
    (rolled,) = [entry for entry in ledger.entries(guarded, ROLLED_BACK) if entry.sequence > bad.sequence]
    assert (rolled.detail["from"], rolled.detail["to"]) == (bad.subject, before.subject)
    assert rolled.detail["requested_by"] == "guard"
    assert rolled.detail["reason"] == "; ".join(breach.detail["verdict"]["reasons"])
    assert (now.at - breach.at).total_seconds() < 5
    assert not ledger.outbox.of(guarded), "a breach starts no training"
    log = live_settings.state / "inference" / guarded / "failures"
    assert b"secret" not in b"".join(path.read_bytes() for path in log.iterdir())


def test_a_damaged_or_missing_package_changes_nothing(
    guarded: str, live_settings: Settings, millrace: Millrace
) -> None:
    _train(millrace, guarded, LAST)
    ledger, store = Ledger(live_settings.ledger), ObjectStore.of(live_settings)
    now = ledger.serving(guarded)
    other = next(v for v in Registry(live_settings).versions(guarded) if now is not None and v.version != now.subject)
    folder = Path(live_settings.objects) / other.package_key
    package = store.get(other.package_key)
    assert package.digest == other.package_digest
    weights = folder / package.entries["weights.safetensors"].path
    sound = weights.read_bytes()
    try:
        weights.chmod(0o600)
        weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        damaged = millrace("rollback", guarded, "--to", other.version)
    finally:
        weights.write_bytes(sound)
    assert damaged.returncode == 3, damaged.stderr
    assert "Traceback" not in damaged.stderr
    aside = folder.with_name("aside")
    shutil.move(folder, aside)
    try:
        missing = millrace("rollback", guarded, "--to", other.version)
    finally:
        shutil.move(aside, folder)
    assert missing.returncode == 3, missing.stderr
    assert "Traceback" not in missing.stderr
    assert ledger.serving(guarded) == now


def _newer(ledger: Ledger, name: str, sequence: int) -> Any:
    entry = ledger.serving(name)
    return entry if entry is not None and entry.sequence > sequence else None


def _train(millrace: Millrace, name: str, as_of: str) -> None:
    done = millrace("run", name, "--as-of", as_of)
    assert done.returncode == 0, done.stderr


def _change(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "pipeline.yaml"
    spec = yaml.safe_load(path.read_text())
    change(spec)
    path.write_text(yaml.safe_dump(spec, sort_keys=False, default_flow_style=False))
    assert load_pipeline(folder.name, folder.parent).name == folder.name
