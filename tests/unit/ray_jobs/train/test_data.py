"""The order of rows is a function of seed and epoch; the ranks share it without loss."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import parquet
from millrace.dataset import SHARD, StagedSet
from millrace.encoding import labels
from millrace.errors import DataError
from millrace.package import LabelScale
from millrace.spec import PipelineSpec
from millrace.storage import ObjectStore
from millrace.window import Window
from ray_jobs.train.data import batches, label_scale, read_labelled, steps_per_epoch, tensors

START = datetime(2024, 1, 1, tzinfo=UTC)


def order(
    num_rows: int, batch_size: int, rank: int, world_size: int, *, epoch: int = 0, seed: int = 0
) -> list[list[int]]:
    found = batches(num_rows, batch_size, epoch=epoch, seed=seed, rank=rank, world_size=world_size)
    return [index.tolist() for index in found]


sizes = st.integers(1, 200)


@given(num_rows=sizes, world_size=st.integers(1, 5), data=st.data())
@settings(max_examples=100, deadline=None)
def test_the_ranks_together_see_every_row_once(num_rows: int, world_size: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(world_size, 64))
    ranks = [order(num_rows, batch_size, rank, world_size) for rank in range(world_size)]
    steps = steps_per_epoch(num_rows, batch_size)
    assert [len(steps_of_rank) for steps_of_rank in ranks] == [steps] * world_size, "no rank waits for another"
    for step in range(steps):
        shares = [len(ranks[rank][step]) for rank in range(world_size)]
        assert min(shares) >= 1, "no rank has an empty share"
        assert max(shares) - min(shares) <= 1
        assert sum(shares) <= max(batch_size, world_size)
    seen = [row for steps_of_rank in ranks for step in steps_of_rank for row in step]
    assert set(seen) == set(range(num_rows))
    last = num_rows - (steps - 1) * batch_size
    assert len(seen) == num_rows + max(0, world_size - last), "only a short last batch is filled up"


@given(num_rows=sizes, batch_size=st.integers(4, 64), epoch=st.integers(0, 1000), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_order_depends_on_seed_and_epoch_and_not_on_the_workers(
    num_rows: int, batch_size: int, epoch: int, seed: int
) -> None:
    alone = order(num_rows, batch_size, 0, 1, epoch=epoch, seed=seed)
    assert alone == order(num_rows, batch_size, 0, 1, epoch=epoch, seed=seed)
    two = [order(num_rows, batch_size, rank, 2, epoch=epoch, seed=seed) for rank in range(2)]
    for step, batch in enumerate(alone):
        if len(batch) >= 2:
            assert sorted(batch) == sorted(two[0][step] + two[1][step])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(order(50, 50, 0, 1, epoch=epoch, seed=seed)[0]) for epoch in range(3) for seed in range(3)}
    assert len(orders) == 9
    assert tuple(range(50)) not in orders


# Tensors


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_targets_are_the_labels_scaled(
    kind: str, make_spec: Callable[..., PipelineSpec], make_rows: Callable[..., pd.DataFrame]
) -> None:
    data, rows = make_spec(kind).data, make_rows(kind)
    scale = label_scale(rows, data)
    found = tensors(rows, data, scale)
    assert len(found) == len(rows)
    assert found.targets.dtype == torch.float32
    np.testing.assert_allclose(found.targets.numpy() * scale.std + scale.mean, labels(rows, data), rtol=1e-5)
    if kind == "regression":
        assert float(found.targets.mean()) == pytest.approx(0, abs=1e-5)
        assert float(found.targets.std(correction=0)) == pytest.approx(1, abs=1e-5)
    else:
        assert scale == LabelScale()


def test_a_target_that_never_changes_is_not_divided_by_nothing(make_spec: Callable[..., PipelineSpec]) -> None:
    assert label_scale(pd.DataFrame({"answer": [5.0, 5.0]}), make_spec("regression").data) == LabelScale(5.0, 1.0)


def test_taking_rows_takes_them_of_every_input(
    make_spec: Callable[..., PipelineSpec], make_rows: Callable[..., pd.DataFrame]
) -> None:
    whole = tensors(make_rows(), make_spec().data, LabelScale())
    part = whole.take(torch.tensor([3, 1]))
    assert len(part) == 2
    for name, tensor in whole.inputs.items():
        torch.testing.assert_close(part.inputs[name], tensor[[3, 1]], equal_nan=True)
    torch.testing.assert_close(part.targets, whole.targets[[3, 1]])
    assert whole.to(torch.device("cpu")).targets is whole.targets


# Rows


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
