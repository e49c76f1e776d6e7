"""A rollout on the real stack under load: a bad version is taken off within two seconds, a good one takes all traffic.

The version fails, or answers otherwise, for requests that no training row is like: so it passes its gate.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.reliability.rollback import bodies
from millrace import rollouts
from millrace.ledger import TRAFFIC, Ledger
from millrace.pipeline import load_pipeline
from millrace.rollouts import Rollout
from millrace.scaffold.write import create_pipeline
from millrace.settings import Settings
from millrace.traffic_rules import TrafficRules
from tasks.prefect_api import flow_state
from tasks.rollout import ROLLING_OUT
from tests.e2e.conftest import FIRST, LAST, drifting_table, set_values
from tests.live import Millrace
from tests.waiting import until

pytestmark = pytest.mark.drill

NAME = "stepwise"
#: From the verdict to the ledger's entry of the traffic, which is written when all replicas answer by it.
OFF_SECONDS = 2.0
STEPS = [
    {"share": 0.1, "min_requests": 300, "min_seconds": 1},
    {"share": 0.3, "min_requests": 400, "min_seconds": 1},
    {"share": 0.5, "min_requests": 400, "min_seconds": 3},
]

_TROUBLE = """

_build_sound = build


def build(inputs, options):
    options = dict(options)
    trouble = options.pop("trouble", "")
    module = _build_sound(inputs, options)

    def hook(_module, given, answer):
        strange = (given[0]["numeric"] > 50).any(dim=1, keepdim=True)
        if trouble == "raise" and strange.any():
            raise RuntimeError("it fails")
        return answer.masked_fill(strange, 9.0 if trouble == "other" else -9.0)

    module.register_forward_hook(hook)
    return module
"""


class Callers:
    """Two callers that ask without a pause: two of three times what training rows are like, then what none is like."""

    def __init__(self, settings: Settings) -> None:
        self.answered: list[tuple[str, float]] = []
        self.failed: list[str] = []
        self._url = f"{settings.serve_url}/v1/{NAME}/predict"
        self._headers = settings.serve_headers
        known = bodies(load_pipeline(NAME, settings.pipelines))
        strange = json.loads(known[0])
        for row in strange["rows"]:
            row["x"] = 99.0
        self._bodies = [known[0], known[1], json.dumps(strange).encode()]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(timeout=30, headers=self._headers) as client:
            while not self._stop.is_set():
                for body in self._bodies:
                    try:
                        answer = client.post(self._url, content=body)
                        answer.raise_for_status()
                    except httpx.HTTPError as error:
                        self.failed.append(repr(error))
                        continue
                    self.answered.append((answer.json()["version"], answer.elapsed.total_seconds()))


@pytest.fixture(scope="module")
def ledger(live_settings: Settings) -> Iterator[Ledger]:
    made = Ledger(live_settings.ledger)
    yield made
    made.close()


@pytest.fixture(scope="module")
def champion(live_settings: Settings, millrace: Millrace, ledger: Ledger) -> str:
    """The version that serves: of before the drift, so that each later one passes its gate."""
    table = live_settings.pipelines.parent / f"{NAME}.csv"
    drifting_table(table)
    made = create_pipeline(NAME, str(table), time="asked_at", label="left", pipelines_dir=live_settings.pipelines)
    set_values(
        made.folder / "pipeline.yaml",
        {"epochs": 6, "window_days": 10.0, "validation_days": 5.0, "lookback_days": 20.0, "replicas": 2},
    )
    change(made.folder, lambda spec: spec["data"]["features"]["x"].pop("max", None))
    with (made.folder / "model.py").open("a") as code:
        code.write(_TROUBLE)
    found = train(millrace, FIRST)
    assert found["outcome"] == "promoted", "beside nothing there is nothing to roll out"
    return str(found["version"])


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "pipeline.yaml"
    spec = yaml.safe_load(path.read_text())
    edit(spec)
    path.write_text(yaml.safe_dump(spec, sort_keys=False, default_flow_style=False))


def train(millrace: Millrace, as_of: str) -> dict[str, Any]:
    done = millrace("run", NAME, "--as-of", as_of, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def begin(
    settings: Settings, millrace: Millrace, ledger: Ledger, trouble: str, number: int, tests: list[str]
) -> Rollout:
    """The rollout of a new version that has this trouble."""

    def edit(spec: dict[str, Any]) -> None:
        # Another number of units, so that it is another package.
        spec.setdefault("model", {}).setdefault("options", {})["trouble"] = trouble
        spec["training"]["learning_rate"] = 0.01 + number / 1000
        spec["rollout"] = {"steps": STEPS, "tests": tests, "tolerances": {"p95_ratio": 10, "prediction_share": 0.25}}

    change(settings.pipelines / NAME, edit)
    found = train(millrace, LAST)
    assert found["outcome"] == ROLLING_OUT, found
    return rollouts.find(ledger, NAME, found["version"])


def ended(ledger: Ledger, begun: Rollout) -> Rollout:
    until(lambda: rollouts.again(ledger, begun).ended is not None, "the end of the rollout", 120)
    return rollouts.again(ledger, begun)


def seconds_to_off(ledger: Ledger, done: Rollout) -> float:
    """From the entry of the verdict to the entry of the traffic without the canary."""
    verdict = done.decisions[max(done.decisions)]
    assert verdict.detail["move"] == "roll back"
    off = next(entry for entry in ledger.entries(NAME, TRAFFIC) if entry.sequence > verdict.sequence)
    assert TrafficRules.from_json(off.detail["rules"]).is_only(done.champion)
    return (off.at - verdict.at).total_seconds()


def answers(settings: Settings) -> Any:
    url = f"{settings.serve_url}/v1/{NAME}/"
    return httpx.get(url, headers=settings.serve_headers, timeout=10).json()


@pytest.mark.parametrize(
    ("trouble", "number", "tests", "metric"),
    [("raise", 1, ["failures", "latency"], "failures"), ("other", 2, ["failures", "predictions"], "predictions")],
)
def test_a_bad_version_is_taken_off(
    champion: str,
    live_settings: Settings,
    millrace: Millrace,
    ledger: Ledger,
    trouble: str,
    number: int,
    tests: list[str],
    metric: str,
) -> None:
    rollout = begin(live_settings, millrace, ledger, trouble, number, tests)
    with Callers(live_settings) as callers:
        done = ended(ledger, rollout)
        before = len(callers.failed)
        begun = len(callers.answered)
        until(lambda: len(callers.answered) > begun + 100, "more answers")
    seconds = seconds_to_off(ledger, done)
    assert done.outcome == "rejected"
    assert seconds <= OFF_SECONDS
    verdict = done.decisions[max(done.decisions)].detail["verdict"]
    assert (verdict["passed"], verdict["metric"]) == (False, metric)
    assert (len(callers.failed) > 0) is (trouble == "raise"), "only the canary's own requests fail"
    assert len(callers.failed) == before, "and none once it is off"
    assert {version for version, _ in callers.answered[begun + 8 :]} == {champion}
    assert answers(live_settings)["version"] == champion
    shown = json.loads(millrace("rollout", NAME, "--json").stdout)
    assert (shown["version"], shown["outcome"]) == (done.version, "rejected")
    listed = json.loads(millrace("versions", NAME, "--json").stdout)["versions"]
    assert [each["decision"] for each in listed if each["version"] == done.version] == ["refused"]


def test_one_that_is_cancelled_stays_until_a_person_decides(
    champion: str, live_settings: Settings, millrace: Millrace, ledger: Ledger
) -> None:
    begun = begin(live_settings, millrace, ledger, "", 3, ["failures"])
    with Callers(live_settings) as callers:
        until(lambda: rollouts.again(ledger, begun).shares, "the first share")
        run = rollouts.again(ledger, begun).shares[0].actor
        url = f"{live_settings.prefect_api_url}/flow_runs/{run}/set_state"
        httpx.post(url, json={"state": {"type": "CANCELLING"}}, timeout=30).raise_for_status()
        until(lambda: flow_state(live_settings, run).state == "CANCELLED", "the end of the cancelled run")
        until(lambda: not [beat for beat in ledger.heartbeats.all() if beat.run == run], "the end of its process")
        then = rollouts.again(ledger, begun)
        counted = len(callers.answered)
        until(lambda: len(callers.answered) > counted + 500, "more answers")
        assert rollouts.again(ledger, begun) == then, "nobody goes on with it"
        assert then.ended is None
        assert answers(live_settings)["traffic"]["canary"][0] == begun.version
        resumed = json.loads(millrace("rollout", NAME, "--resume", "--json").stdout)
        assert resumed["flow_run"] == run
        until(lambda: len(rollouts.again(ledger, begun).shares) > len(then.shares), "the next share")
        stopped = millrace("rollout", NAME, "--stop", "--json")
        assert stopped.returncode == 0, stopped.stderr
        assert json.loads(stopped.stdout)["outcome"] == "stopped"
        assert answers(live_settings)["traffic"]["canary"] is None
        until(lambda: flow_state(live_settings, run).is_final, "the end of its flow run")
    assert callers.failed == []
    assert answers(live_settings)["version"] == champion


def test_a_good_version_goes_all_the_way_also_when_its_flow_is_killed(
    champion: str, live_settings: Settings, millrace: Millrace, ledger: Ledger
) -> None:
    begun = begin(live_settings, millrace, ledger, "", 4, ["failures", "latency", "quality"])
    with Callers(live_settings) as callers:
        until(lambda: 1 in rollouts.again(ledger, begun).shares, "the second share")
        run = rollouts.again(ledger, begun).shares[1].actor
        (beat,) = [beat for beat in ledger.heartbeats.all() if beat.run == run]
        os.kill(beat.pid, signal.SIGKILL)
        killed = rollouts.again(ledger, begun)
        canary = answers(live_settings)["traffic"]["canary"]
        assert canary == [begun.version, STEPS[max(killed.shares)]["share"]], "the traffic is as it was"
        done = ended(ledger, begun)
        counted = len(callers.answered)
        until(lambda: len(callers.answered) > counted + 100, "more answers")
    assert callers.failed == []
    assert done.outcome == "promoted"
    assert ledger.entries(NAME, "run_resumed", subject=run), "another life has brought it to its end"
    assert sorted(done.shares) == [0, 1, 2]
    assert [entry.detail["move"] for entry in done.decisions.values()] == ["advance", "advance", "complete"]
    assert "quality" in done.decisions[2].detail["verdict"]["without_data"], "no outcome was sent"
    assert {version for version, _ in callers.answered[counted + 8 :]} == {done.version}
    serving = ledger.serving(NAME)
    assert serving is not None
    assert serving.subject == done.version
    assert ledger.verify()[0] > 0
    told = answers(live_settings)
    assert (told["version"], told["traffic"]["canary"]) == (done.version, None)
    assert f"{NAME}-canary" in _artifacts(live_settings)
    assert Counter(entry.detail["outcome"] for entry in ledger.entries(NAME, rollouts.ENDED))["promoted"] == 1
    metrics = httpx.get(f"{live_settings.serve_url}/v1/{NAME}/metrics", headers=live_settings.serve_headers).text
    assert f'millrace_traffic_share{{pipeline="{NAME}",version="{done.version}"}} 1.0' in metrics


def _artifacts(settings: Settings) -> dict[str, str]:
    """The newest artifact by key."""
    body = {"limit": 200, "sort": "CREATED_DESC"}
    found = httpx.post(f"{settings.prefect_api_url}/artifacts/filter", json=body, timeout=30).json()
    return {artifact["key"]: artifact["data"] for artifact in reversed(found) if artifact["key"]}
