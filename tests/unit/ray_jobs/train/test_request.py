"""A request's key names every input of a run and nothing else; the split cuts time without a gap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.dataset import StagedSet
from millrace.ledger import Token
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.spec import PipelineSpec
from millrace.window import Window
from ray_jobs.train.request import Split, TrainRequest, make_request

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WINDOW = Window(START, START + 60 * DAY)
TOKEN = Token("tiny", "training", 1, "run")
LINEAGE = {"code": "c", "lock": "l", "commit": "h", "incident": ""}
STAGED = StagedSet("tiny", "set", "digest", WINDOW, WINDOW.end, ("shard",), 10, 0, 0, {})
days = st.floats(0.5, 40)


@given(judged=days, stopped=days, lookback=st.none() | days, extent=st.floats(1, 200))
@settings(max_examples=100, deadline=None)
def test_a_split_is_contiguous_and_ends_now(
    judged: float, stopped: float, lookback: float | None, extent: float, make_spec: Callable[..., PipelineSpec]
) -> None:
    staged = Window(START, START + timedelta(days=extent))
    change: dict[str, Any] = {"evaluation.window_days": judged, "training.validation_days": stopped}
    if lookback is not None:
        change["training.lookback_days"] = lookback + stopped
    pipeline = Pipeline(make_spec(change=change), Path("tiny"))
    if timedelta(days=judged) + timedelta(days=stopped) >= staged.end - staged.start:
        with pytest.raises(ValueError, match="must end after it starts"):
            Split.of(pipeline, staged, staged.end)
        return
    split = Split.of(pipeline, staged, staged.end)
    assert split.training.end == split.validation.start
    assert split.validation.end == split.evaluation.start
    assert split.evaluation.end == staged.end
    assert split.evaluation.end - split.evaluation.start == timedelta(days=judged)
    assert split.validation.end - split.validation.start == timedelta(days=stopped)
    assert split.training.start >= staged.start
    if lookback is None:
        assert split.training.start == staged.start
    else:
        assert split.validation.end - split.training.start <= timedelta(days=lookback + stopped)
        assert split.training.start in (staged.start, split.validation.end - timedelta(days=lookback + stopped))


def request(pipeline: Pipeline, staged: StagedSet = STAGED, **lineage: str) -> TrainRequest:
    split = Split.of(pipeline, staged.window, staged.window.end)
    return make_request(Settings(), pipeline, staged, split, LINEAGE | lineage, TOKEN)


def test_the_same_request_is_the_same_run(write_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    one, two = write_pipeline(tmp_path / "a"), write_pipeline(tmp_path / "b")
    assert request(one).key == request(two).key
    assert request(one, incident="incident-1", commit="other").key == request(one).key, "who asked is no input"
    assert request(one).package_key == f"packages/tiny/{request(one).key}"
    assert request(one).checkpoint_prefix == f"checkpoints/tiny/{request(one).key}"


@pytest.mark.parametrize(
    "change",
    [
        {"training.epochs": 9},
        {"training.seed": 1},
        {"model.options": {"width": 3}},
        {"data.features.size.max": 9.0},
        {"evaluation.window_days": 10.0},
    ],
)
def test_another_spec_is_another_run(
    change: dict[str, Any], write_pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    assert request(write_pipeline(tmp_path / "a")).key != request(write_pipeline(tmp_path / "b", change=change)).key


@pytest.mark.parametrize(
    "change", [{"serving.replicas": 3}, {"monitoring.min_rows": 9}, {"owner": "me"}, {"evaluation.min_rows": 9}]
)
def test_what_does_not_make_the_model_does_not_make_the_run(
    change: dict[str, Any], write_pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    assert request(write_pipeline(tmp_path / "a")).key == request(write_pipeline(tmp_path / "b", change=change)).key


def test_data_and_code_are_inputs(tiny: Pipeline, write_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    changed = write_pipeline(tmp_path / "other")
    (changed.folder / "model.py").write_text("# other code")
    keys = {
        request(tiny).key,
        request(tiny, replace(STAGED, digest="other")).key,
        request(tiny, replace(STAGED, window=Window(START + DAY, WINDOW.end))).key,
        request(tiny, code="d").key,
        request(tiny, lock="m").key,
        request(changed).key,
    }
    assert len(keys) == 6


def test_a_split_is_told_as_json(tiny: Pipeline) -> None:
    document = Split.of(tiny, WINDOW, WINDOW.end).as_dict()
    assert list(document) == ["training", "validation", "evaluation"]
    assert document["evaluation"]["end"] == WINDOW.end.isoformat()
