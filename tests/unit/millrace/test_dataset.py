"""A staged set gives the rows of a window, each once, and its keys name what they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import parquet
from millrace.dataset import SHARD, StagedSet, count_reasons, labelled_rows, set_key, shard_key
from millrace.errors import DataError, DigestError
from millrace.pipeline import Pipeline
from millrace.spec import PipelineSpec
from millrace.storage import ObjectStore
from millrace.window import Window

START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WINDOW = Window(START, START + 40 * DAY)
LATER = datetime(2030, 1, 1, tzinfo=UTC)
Spec = Callable[..., PipelineSpec]


def staged(store: ObjectStore, rows: pd.DataFrame, window: Window = WINDOW) -> StagedSet:
    """`rows` as shards by week, published by hand."""
    keys = []
    for piece in window.split("week"):
        part = rows[(rows["at"] >= piece.start) & (rows["at"] < piece.end)]
        key = f"staged/tiny/shards/{piece.key}-{'0' * 16}"
        store.publish(key, {SHARD: parquet.write(part)}, summary={"reasons": {"at: missing": 2}})
        keys.append(key)
    return StagedSet("tiny", "staged/tiny/sets/x", "d", window, LATER, tuple(keys), len(rows), 0, 0, {"a: missing": 1})


@pytest.fixture(scope="module")
def hourly() -> pd.DataFrame:
    times = pd.date_range(WINDOW.start, WINDOW.end, freq="7h", inclusive="left")
    return pd.DataFrame({"at": times, "id": np.arange(len(times)), "answer": 1.0})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return ObjectStore(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def staged_set(store: ObjectStore, hourly: pd.DataFrame) -> StagedSet:
    return staged(store, hourly)


@given(start=st.integers(-60, 1000), hours=st.integers(7, 400))
@settings(max_examples=30, deadline=None)
def test_a_window_has_its_rows_and_no_others(
    start: int, hours: int, store: ObjectStore, staged_set: StagedSet, hourly: pd.DataFrame, make_spec: Spec
) -> None:
    begin = START + timedelta(hours=start)
    window = Window(begin, begin + timedelta(hours=hours))
    expected = [number for number, at in zip(hourly["id"], hourly["at"], strict=True) if at.to_pydatetime() in window]
    if expected:
        found = staged_set.read(store, make_spec().data, window)
        assert found["id"].tolist() == expected
        assert found.index.tolist() == list(range(len(expected)))
    else:
        with pytest.raises(DataError):
            staged_set.read(store, make_spec().data, window)


@pytest.mark.parametrize("begin", [START + timedelta(hours=1), START + 50 * DAY])
def test_a_window_without_rows_says_so(
    begin: datetime, store: ObjectStore, staged_set: StagedSet, make_spec: Spec
) -> None:
    window = Window(begin, begin + timedelta(hours=1))
    with pytest.raises(DataError) as caught:
        staged_set.read(store, make_spec().data, window)
    assert caught.value.what == f"staged data set staged/tiny/sets/x has no rows in {window}"
    assert str(WINDOW) in (caught.value.got or "")
    assert "evaluation.window_days" in (caught.value.next or "")


def test_the_last_moment_of_a_source_is_not_lost(make_spec: Spec, tmp_path: Path) -> None:
    """A table's extent ends a microsecond after its last row, which may stand on a full second."""
    end = START + DAY
    rows = pd.DataFrame({"at": pd.DatetimeIndex([START, end]), "id": [0, 1], "answer": 1.0})
    store = ObjectStore(str(tmp_path))
    whole = staged(store, rows, Window(START, end + timedelta(microseconds=1)))
    assert whole.read(store, make_spec().data, Window(end, end + DAY))["id"].tolist() == [1]


def test_a_changed_shard_is_refused(make_spec: Spec, hourly: pd.DataFrame, tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    mine = staged(store, hourly)
    path = store.get(mine.shards[0]).local(SHARD, tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DigestError):
        mine.read(store, make_spec().data, WINDOW)


def test_a_set_is_json_and_back(staged_set: StagedSet) -> None:
    assert StagedSet.from_dict(json.loads(json.dumps(staged_set.as_dict()))) == staged_set


def test_outcomes_that_came_later_are_left_out(make_spec: Spec) -> None:
    data = make_spec(change={"data.label.known_at": "told"}).data
    rows = pd.DataFrame(
        {
            "answer": [1.0, 1.0, None, 0.0],
            "told": pd.to_datetime(["2024-01-05", "2024-01-06", "2024-01-01", None], utc=True),
            "id": range(4),
        }
    )
    as_of = datetime(2024, 1, 5)
    assert labelled_rows(rows, data, as_of)["id"].tolist() == [0], "the moment itself counts, the future does not"
    assert labelled_rows(rows, data, as_of + DAY)["id"].tolist() == [0, 1]


# Keys


def test_a_settled_window_has_one_key_for_every_later_moment(
    write_pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    pipeline = write_pipeline(tmp_path, change={"data.label.delay_days": 5.0})
    settled = WINDOW.end + 5 * DAY
    key = shard_key(pipeline, WINDOW, settled)
    assert key == shard_key(pipeline, WINDOW, settled + DAY)
    early = {shard_key(pipeline, WINDOW, settled - part * DAY) for part in (1, 2)}
    assert len(early | {key}) == 3, "until then outcomes may still come"
    assert key.startswith(f"staged/tiny/shards/{WINDOW.key}-")


@pytest.mark.parametrize(
    "change",
    [
        {"data.features.size.max": 9.0},
        {"data.source_options.bad": 1},
        {"data.label.delay_days": 0.5},
    ],
)
def test_a_shards_key_follows_its_inputs(
    change: dict[str, Any], write_pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    one = write_pipeline(tmp_path / "a")
    assert shard_key(one, WINDOW, LATER) == shard_key(write_pipeline(tmp_path / "b"), WINDOW, LATER)
    assert shard_key(one, WINDOW, LATER) != shard_key(write_pipeline(tmp_path / "c", change=change), WINDOW, LATER)
    trained_otherwise = write_pipeline(tmp_path / "d", change={"training.epochs": 9})
    assert shard_key(one, WINDOW, LATER) == shard_key(trained_otherwise, WINDOW, LATER)


def test_a_sets_key_follows_its_shards_and_its_moment() -> None:
    keys = {
        set_key("tiny", WINDOW, LATER, ("a", "b")),
        set_key("tiny", WINDOW, LATER, ("b", "a")),
        set_key("tiny", WINDOW, LATER + DAY, ("a", "b")),
        set_key("other", WINDOW, LATER, ("a", "b")),
        set_key("tiny", replace(WINDOW, end=LATER), LATER, ("a", "b")),
    }
    assert len(keys) == 5


def test_reasons_are_counted_from_the_summary(store: ObjectStore, staged_set: StagedSet) -> None:
    assert count_reasons(store.get(staged_set.shards[0])) == {"at: missing": 2}
