"""Judging answers the same rows with every model, and only rows whose outcome had arrived."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from millrace.dataset import StagedSet
from millrace.errors import ArtifactError, DataError
from millrace.gate import Evaluation
from millrace.package import Predictor, publish_package
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.storage import ObjectStore
from millrace.window import Window
from ray_jobs.evaluate.judge import judge
from ray_jobs.stage import shards
from ray_jobs.train.request import Split

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture
def staged(tiny: Pipeline, local_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> StagedSet:
    def run_all(_: Settings, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        return [function(*given) for given in arguments]

    monkeypatch.setattr(shards, "run_all", run_all)
    return shards.stage(local_settings, tiny, shards.source_extent(tiny), AS_OF)[0]


@pytest.fixture
def publish(
    tiny: Pipeline, local_settings: Settings, make_rows: Callable[..., pd.DataFrame], make_predictor: Any
) -> Any:
    def make(key: str, seed: int) -> Predictor:
        predictor = make_predictor(tiny, make_rows(), seed=seed)
        store = ObjectStore.of(local_settings)
        publish_package(store, key, predictor=predictor, reference=make_rows(), card="", lineage={}, metrics={})
        return predictor

    return make


def judged(settings: Settings, tiny: Pipeline, staged: StagedSet, champion: tuple[str, str] | None) -> Evaluation:
    split = Split.of(tiny, staged.window, AS_OF)
    return judge(settings, tiny.spec, staged, split, "packages/new", champion)


def test_all_models_answer_the_same_newest_rows(
    tiny: Pipeline, local_settings: Settings, staged: StagedSet, publish: Any
) -> None:
    publish("packages/new", 1)
    publish("packages/old", 2)
    found = judged(local_settings, tiny, staged, ("7", "packages/old"))
    assert set(found.metrics) == {"challenger", "champion", "baseline"}
    assert found.metrics["challenger"] != found.metrics["champion"]
    assert found.metrics["baseline"]["roc_auc"] == 0.5
    assert found.window == Window(datetime(2024, 2, 16), AS_OF)
    assert found.num_rows == 14 * 12
    assert found.champion_version == "7"


def test_the_same_package_twice_is_no_improvement(
    tiny: Pipeline, local_settings: Settings, staged: StagedSet, publish: Any
) -> None:
    publish("packages/new", 1)
    found = judged(local_settings, tiny, staged, ("7", "packages/new"))
    assert found.improvement is not None
    assert (found.improvement.lower, found.improvement.upper) == (0.0, 0.0)
    assert not found.verdict.passed


def test_without_a_champion_there_is_nothing_to_improve(
    tiny: Pipeline, local_settings: Settings, staged: StagedSet, publish: Any
) -> None:
    publish("packages/new", 1)
    found = judged(local_settings, tiny, staged, None)
    assert (found.improvement, found.champion_version) == (None, None)
    assert "champion" not in found.metrics


def test_what_is_absent_is_named(tiny: Pipeline, local_settings: Settings, staged: StagedSet, publish: Any) -> None:
    with pytest.raises(ArtifactError, match="packages/new"):
        judged(local_settings, tiny, staged, None)
    publish("packages/new", 1)
    later = Window(datetime(2025, 1, 1), datetime(2025, 2, 1))
    split = Split.of(tiny, staged.window, AS_OF)
    with pytest.raises(DataError, match=r"has no rows in \[2025-01-01, 2025-02-01\)"):
        judge(local_settings, tiny.spec, staged, Split(split.training, split.validation, later), "packages/new", None)
