"""A shadow answers from the log what others were asked, into a log of its own; under pressure it drops."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from millrace.inference_log import read_answers, read_shadow
from millrace.spec.load import parse_spec
from millrace.traffic import Division
from ray_jobs.serve import shadow as module
from ray_jobs.serve.service import PredictionService
from ray_jobs.serve.shadow import LATE_SECONDS, Shadow, is_drawn
from ray_jobs.serve.versions import load_version
from tests.unit.ray_jobs.serve.asking import Ask
from tests.unit.ray_jobs.serve.world import World

ROWS = [{"delay": 1.5, "carrier": "UA"}, {"delay": -3.0, "carrier": "AA"}]


class Clock:
    """The time of day, and what a test puts on it."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def serving(service: PredictionService, world: World) -> PredictionService:
    asyncio.run(service.load(world.publish("1")))
    return service


@pytest.fixture
def make_shadow(world: World) -> Iterator[Callable[..., Shadow]]:
    made: list[Shadow] = []

    def make(share: float = 1.0, clock: Callable[[], float] = time.time, **package: Any) -> Shadow:
        version = load_version(world.publish("2", **package), world.store, world.pipeline)
        made.append(Shadow(version, share, world.log_folder, clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def mirrored(world: World) -> pd.DataFrame:
    return read_shadow(world.log_folder, world.pipeline.spec.data)


@pytest.mark.usefixtures("serving")
def test_it_answers_again_what_was_answered_and_nobody_hears_of_it(
    ask: Ask, world: World, make_shadow: Callable[..., Shadow]
) -> None:
    ask("POST", "/predict", json={"rows": ROWS})
    shadow = make_shadow()
    told = [ask("POST", "/predict", json={"rows": ROWS}).json() for _ in range(3)]
    assert shadow.look() == 3
    assert shadow.look() == 0
    rows = mirrored(world)
    assert list(rows["request_id"].unique()) == [document["request_id"] for document in told], "from its start on"
    assert rows["row"].tolist() == [0, 1] * 3
    assert (set(rows["version"]), set(rows["primary"]), set(rows["error"])) == ({"2"}, {"1"}, {""})
    given = [row["probability"] for document in told for row in document["predictions"]]
    assert rows["prediction"].tolist() == pytest.approx(given)
    own = shadow.version.predictor.predict_rows(pd.DataFrame(ROWS))
    assert rows["shadow"].tolist() == pytest.approx(own.tolist() * 3)
    assert not np.allclose(rows["shadow"], rows["prediction"])
    assert set(read_answers(world.log_folder, world.pipeline.spec.data)["version"]) == {"1"}


@pytest.mark.usefixtures("serving")
def test_a_closed_log_reads_as_an_open_one(ask: Ask, world: World, make_shadow: Callable[..., Shadow]) -> None:
    shadow = make_shadow()
    ask("POST", "/predict", json={"rows": ROWS})
    shadow.look()
    before = mirrored(world)
    shadow.close()
    assert len(list((world.log_folder / "shadow").glob("*.parquet"))) == 1
    pd.testing.assert_frame_equal(mirrored(world), before)


@pytest.mark.usefixtures("serving")
def test_too_much_at_once_and_what_is_late_is_dropped_and_counted(
    ask: Ask, world: World, make_shadow: Callable[..., Shadow], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    shadow = make_shadow(clock=clock)
    counted: Counter[tuple[str, str]] = Counter()
    shadow.count = lambda *what: counted.update([what])
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    for _ in range(5):
        ask("POST", "/predict", json={"rows": ROWS})
    assert shadow.look() == 2
    assert mirrored(world)["dropped"].sum() == 3
    for _ in range(4):
        ask("POST", "/predict", json={"rows": ROWS})
    clock.ahead = LATE_SECONDS + 1
    assert shadow.look() == 0
    rows = mirrored(world)
    # The last of them has a line of its own, so that what is dropped is known though nothing is answered.
    assert (rows["error"] == "dropped").sum() == len(ROWS)
    assert rows["dropped"].sum() + 1 == 3 + 4
    clock.ahead = 0.0
    ask("POST", "/predict", json={"rows": ROWS})
    assert shadow.look() == 1
    assert counted == {("2", "answered"): 3, ("2", "dropped"): 3 + 4}


@pytest.mark.usefixtures("serving")
def test_what_it_does_not_take_is_told(ask: Ask, world: World, make_shadow: Callable[..., Shadow]) -> None:
    spec = world.pipeline.spec.model_dump(mode="json")
    features = spec["data"]["features"] | {
        "delay": {"kind": "numeric", "min": 0.0, "max": 100.0},
        "weather": {"kind": "categorical", "values": ["sun"], "nullable": True},
    }
    shadow = make_shadow(spec=parse_spec({**spec, "data": spec["data"] | {"features": features}}))
    ask("POST", "/predict", json={"rows": ROWS})
    ask("POST", "/predict", json={"rows": ROWS[:1]})
    assert shadow.look() == 1
    rows = mirrored(world)
    assert rows["error"].tolist() == ["RequestError", "RequestError", ""]
    assert rows["shadow"].isna().tolist() == [True, True, False]


@pytest.mark.usefixtures("serving")
def test_a_request_on_which_the_model_fails_takes_no_other_along(
    ask: Ask, world: World, make_shadow: Callable[..., Shadow], monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = make_shadow()
    counted: Counter[tuple[str, str]] = Counter()
    shadow.count = lambda *what: counted.update([what])
    predict = shadow.version.predictor.predict

    def fails_below_zero(batch: Any) -> Any:
        if (batch["numeric"] < 0).any():
            raise ValueError("a negative number")
        return predict(batch)

    monkeypatch.setattr(type(shadow.version.predictor), "predict", lambda _, batch: fails_below_zero(batch))
    for row in (ROWS[0], ROWS[1], ROWS[0]):
        ask("POST", "/predict", json={"rows": [row]})
    assert shadow.look() == 2
    assert mirrored(world)["error"].tolist() == ["", "ValueError", ""]
    assert counted == {("2", "answered"): 2, ("2", "failed"): 1}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_the_share_is_one_of_each_versions_requests(share: float) -> None:
    division = Division.whole("1").moved({"1": 0.9, "2": 0.1})
    ids = [f"request-{number}" for number in range(100_000)]
    drawn = [is_drawn(request_id, share) for request_id in ids]
    assert abs(sum(drawn) / len(ids) - share) < 0.005
    second = [is_ours for request_id, is_ours in zip(ids, drawn, strict=True) if division.version_of(request_id) == "2"]
    assert abs(sum(second) / len(second) - share) < 0.02
