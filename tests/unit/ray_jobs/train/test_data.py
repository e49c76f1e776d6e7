"""Which rows are trained on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from millrace import parquet
from millrace.dataset import SHARD, StagedSet
from millrace.errors import DataError
from millrace.spec import PipelineSpec
from millrace.storage import ObjectStore
from millrace.window import Window
from ray_jobs.train.data import read_labelled

START = datetime(2024, 1, 1, tzinfo=UTC)


def test_only_rows_whose_outcome_had_arrived_are_read(
    make_spec: Callable[..., PipelineSpec],
    make_rows: Callable[..., pd.DataFrame],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store, data = ObjectStore(str(tmp_path_factory.mktemp("store"))), make_spec().data
    rows = make_rows()
    rows.loc[rows["id"] >= 150, "answer"] = None
    window = Window(START, START + timedelta(days=31))
    store.publish(f"s/{window.key}-x", {SHARD: parquet.write(rows)})
    staged = StagedSet("tiny", "set", "d", window, window.end, (f"s/{window.key}-x",), 200, 0, 50, {})
    read = read_labelled(store, staged, data, window)
    assert read[data.event_time].tolist() == rows[data.event_time].tolist()[:150]
    assert set(read) == {data.event_time, data.label.column, *data.features}, "a row's name trains nothing"
    late = Window(START + timedelta(days=25), window.end)
    with pytest.raises(DataError) as caught:
        read_labelled(store, staged, data, late)
    assert caught.value.what == f"no labelled rows in {late}"
    assert caught.value.next == "give a later as_of, or check data.label.known_at and data.label.delay_days"
