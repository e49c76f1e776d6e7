"""What is written to shards is what is read, and what is no shard says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import ArtifactError, DataError
from millrace.shards import (
    Column,
    MappedShard,
    ShardWriter,
    TokenWriter,
    open_set,
    publish,
    smallest_token_dtype,
)
from millrace.storage import ObjectStore

COLUMNS = [Column("x", "<f4", (2, 3)), Column("flag", "|b1"), Column("id", "<i8")]


@given(blocks=st.lists(st.integers(0, 30), min_size=1, max_size=6), per_shard=st.integers(1, 25))
def test_rows_come_back_in_order(tmp_path_factory: pytest.TempPathFactory, blocks: list[int], per_shard: int) -> None:
    folder, num_rows = tmp_path_factory.mktemp("rows"), sum(blocks)
    ids = np.arange(num_rows)
    x = np.arange(num_rows * 6, dtype="<f4").reshape(-1, 2, 3)
    with ShardWriter(folder, COLUMNS, samples_per_shard=per_shard) as writer:
        start = 0
        for size in blocks:
            part = slice(start, start + size)
            block = {"x": x[part].copy(), "flag": ids[part] % 3 == 0, "id": ids[part].copy()}
            writer.write(block)
            block["x"][:] = -1  # what was given is the caller's again
            start += size
    shards = [MappedShard(path) for path in writer.files.values()]
    assert [len(shard) for shard in shards] == [per_shard] * (num_rows // per_shard) + (
        [num_rows % per_shard] if num_rows % per_shard else []
    )
    if shards:
        assert (np.concatenate([shard.columns["x"] for shard in shards]) == x).all()
        assert (np.concatenate([shard.columns["id"] for shard in shards]) == ids).all()
        assert (np.concatenate([shard.columns["flag"] for shard in shards]) == (ids % 3 == 0)).all()


@given(blocks=st.lists(st.integers(0, 50), max_size=6), length=st.integers(1, 12))
def test_each_token_is_predicted_once(tmp_path_factory: pytest.TempPathFactory, blocks: list[int], length: int) -> None:
    stream = np.arange(sum(blocks))
    with TokenWriter(
        tmp_path_factory.mktemp("tokens"), sequence_length=length, vocabulary_size=400, samples_per_shard=5
    ) as writer:
        for part in np.split(stream, np.cumsum(blocks)[:-1]) if blocks else []:
            writer.write(part)
    found = [row for path in writer.files.values() for row in MappedShard(path).columns["tokens"]]
    predicted = np.concatenate([row[1:] for row in found]) if found else np.empty(0)
    assert predicted.tolist() == stream[1 : 1 + len(predicted)].tolist()
    assert max(0, len(stream) - 1) - len(predicted) == writer.num_left_out < max(length, 1)


def test_the_smallest_dtype_that_holds_the_vocabulary() -> None:
    assert [smallest_token_dtype(size) for size in (256, 257, 65_536, 65_537)] == ["<u1", "<u2", "<u2", "<u4"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [Column("id", "<i4")], samples_per_shard=4)
    for block in ({"id": np.zeros(3)}, {"id": np.zeros((3, 2), "<i4")}, {"other": np.zeros(3, "<i4")}):
        with pytest.raises(DataError):
            writer.write(block)
    with pytest.raises(DataError, match="vocabulary"):
        TokenWriter(tmp_path, sequence_length=3, vocabulary_size=9).write(np.array([9]))
    with pytest.raises(DataError, match="dtype"):
        Column("text", "object")


def test_a_set_comes_back_and_another_artifact_is_none(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path / "objects"))
    with ShardWriter(tmp_path / "shards", [Column("id", "<i8")], samples_per_shard=4) as writer:
        writer.write({"id": np.arange(10)})
    made = publish(store, "sets/one", writer.files)
    assert open_set(store, "sets/one") == made
    assert [shard.num_samples for shard in made.shards] == [4, 4, 2]
    store.publish("other", {"a": b"1"})
    with pytest.raises(ArtifactError, match="not a set of shards"):
        open_set(store, "other")
    with pytest.raises(DataError, match="no data set"):
        publish(store, "sets/none", {})


@given(cut=st.integers(0, 8000), at=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_file_is_an_error_of_ours_or_a_shard(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    with ShardWriter(folder, [Column("id", "<i8")], samples_per_shard=500) as writer:
        writer.write({"id": np.arange(500)})
    path = folder / "shard-000000"
    raw = bytearray(path.read_bytes()[:cut])
    if at < len(raw):
        raw[at] = value
    path.write_bytes(raw)
    try:
        MappedShard(path)
    except ArtifactError as error:
        assert str(path) in str(error)
