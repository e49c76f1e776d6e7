"""A small set of samples, each of which says which it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from millrace.shards import Column, SampleSet, ShardWriter, publish
from millrace.storage import ObjectStore

Made = tuple[ObjectStore, SampleSet]


def make_set(folder: Path, num_samples: int = 200, samples_per_shard: int = 16) -> Made:
    store = ObjectStore(str(folder / "objects"))
    columns = [Column("x", "<f4", (3,)), Column("index", "<i8")]
    with ShardWriter(folder / "shards", columns, samples_per_shard=samples_per_shard) as writer:
        index = np.arange(num_samples)
        writer.write({"x": np.repeat(index[:, None], 3, axis=1).astype("<f4"), "index": index})
    return store, publish(store, "sets/small", writer.files)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    return lambda *sizes: make_set(tmp_path, *sizes)
