"""Staged documents become sequences that give each of them back, in order, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from millrace.dataset import StagedSet
from millrace.errors import DataError
from millrace.pipeline import Pipeline
from millrace.settings import Settings
from millrace.shards import MappedShard, SampleSet, open_set
from millrace.storage import ObjectStore
from millrace.texts import decode
from millrace.window import Window
from ray_jobs.stage.tokens import documents, write_tokens


@pytest.fixture
def store(local_settings: Settings) -> ObjectStore:
    return ObjectStore.of(local_settings)


def stream(store: ObjectStore, samples: SampleSet) -> np.ndarray:
    """The tokens of all sequences, the shared ones once."""
    rows = [MappedShard(Path(str(store.local_path(shard.key)))).columns["tokens"] for shard in samples.shards]
    sequences = np.concatenate(rows)
    return np.concatenate([sequences[0, :1], sequences[:, 1:].ravel()])


def test_what_breaks_the_contract_is_quarantined(staged_prose: StagedSet) -> None:
    assert (staged_prose.num_rows, staged_prose.num_quarantined, staged_prose.num_unlabelled) == (234, 6, 0)
    assert staged_prose.reasons == {"text: empty": 6}


def test_the_sequences_hold_the_documents_in_order(
    prose: Pipeline, staged_prose: StagedSet, store: ObjectStore, tmp_path: Path
) -> None:
    data = prose.spec.texts
    samples = write_tokens(store, staged_prose, data, staged_prose.window, key="t", scratch=tmp_path)
    expected = staged_prose.read(store, data, staged_prose.window)["text"].tolist()
    found = list(decode(stream(store, samples)))
    assert len(expected) == 234
    # The end of the stream that fills no sequence is left out.
    assert found == expected[: len(found)]
    left_out = sum(len(text.encode()) + 1 for text in expected[len(found) :])
    assert left_out < 64 + len(expected[-1].encode()) + 1
    assert samples.columns[0].shape == (65,)
    assert samples.kind == "tokens"


def test_a_window_has_its_documents_and_no_other(prose: Pipeline, staged_prose: StagedSet, store: ObjectStore) -> None:
    data = prose.spec.texts
    cut = Window(staged_prose.window.start, staged_prose.window.end).split("week")
    parts = [bytes(tokens) for week in cut for part in documents(store, staged_prose, data, week) for tokens in part]
    whole = [bytes(tokens) for part in documents(store, staged_prose, data, staged_prose.window) for tokens in part]
    assert parts == whole


def test_what_was_written_is_not_written_again(
    prose: Pipeline, staged_prose: StagedSet, store: ObjectStore, tmp_path: Path
) -> None:
    data = prose.spec.texts
    first = write_tokens(store, staged_prose, data, staged_prose.window, key="t", scratch=tmp_path)
    again = write_tokens(store, staged_prose, data, staged_prose.window, key="t", scratch=tmp_path / "absent")
    assert first == again == open_set(store, "t")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


def test_too_little_for_one_sequence_is_refused(
    prose: Pipeline, staged_prose: StagedSet, store: ObjectStore, tmp_path: Path
) -> None:
    hour = Window(staged_prose.window.start, staged_prose.window.start.replace(hour=1))
    with pytest.raises(DataError, match="do not fill one sequence") as caught:
        write_tokens(store, staged_prose, prose.spec.texts, hour, key="t", scratch=tmp_path)
    assert "0 tokens" in str(caught.value.got)
    assert store.find("t") is None
