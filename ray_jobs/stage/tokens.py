"""Staged documents as sequences of tokens in shards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from millrace.dataset import StagedSet
from millrace.errors import DataError
from millrace.shards import SampleSet, TokenWriter, open_set, publish
from millrace.spec import TextSpec
from millrace.storage import ObjectStore
from millrace.texts import VOCABULARY, Tokens, encode
from millrace.window import Window


def documents(store: ObjectStore, staged: StagedSet, data: TextSpec, window: Window) -> Iterator[list[Tokens]]:
    """The documents of `window` in time order, a staged shard at a time, uint8 [bytes + 1] each."""
    for rows in staged.parts(store, data, window, [data.text]):
        yield [encode(document) for document in rows[data.text]]


def write_tokens(
    store: ObjectStore, staged: StagedSet, data: TextSpec, window: Window, *, key: str, scratch: Path
) -> SampleSet:
    """The documents of `window`, one after the other with an END between, as the set `key`; not again when it is there.

    A staged shard and a shard of samples are in memory at a time; the shards lie in `scratch` until they are published.

    Raises:
        DataError: the window has fewer tokens than a sequence needs.
    """
    if store.find(key) is not None:
        return open_set(store, key)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        with TokenWriter(Path(folder), sequence_length=data.sequence_length, vocabulary_size=VOCABULARY) as writer:
            num_tokens = 0
            for part in documents(store, staged, data, window):
                for tokens in part:
                    writer.write(tokens)
                    num_tokens += len(tokens)
        if not writer.files:
            raise DataError(
                f"the documents of {window} do not fill one sequence",
                got=f"{num_tokens:,} tokens",
                allowed=f"more than data.sequence_length ({data.sequence_length:,})",
                next="lengthen the window (training.validation_days), or shorten data.sequence_length",
            )
        return publish(
            store, key, writer.files, kind=writer.kind, lineage={"staged": staged.digest, "window": window.as_dict()}
        )
