"""An ordered list of shards under one signed manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.errors import ArtifactError, DataError
from millrace.shards.columns import Column
from millrace.shards.reader import MappedShard
from millrace.storage import Artifact, ObjectStore


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of a set: its key in the store, its samples, and what its bytes must be."""

    key: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class SampleSet:
    """Samples in a fixed order: those of the first shard, then those of the second...; `digest` names the content."""

    key: str
    digest: str
    kind: str
    columns: tuple[Column, ...]
    shards: tuple[Shard, ...]

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def num_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self.shards)


def publish(
    store: ObjectStore,
    key: str,
    files: Mapping[str, Path],
    *,
    kind: str = "table",
    lineage: Mapping[str, Any] | None = None,
) -> SampleSet:
    """Commit shard files, in order, as the set `key`: whole or absent; of two writers the first one's is there.

    Raises:
        DataError: there is no shard, or not all hold the same columns.
        ArtifactError, ServiceError: as of `ObjectStore.publish`.
    """
    shards = {name: MappedShard(path) for name, path in files.items()}
    kinds = {shard.described for shard in shards.values()}
    if len(kinds) != 1:
        raise DataError(
            f"the shards of {key} are no data set",
            got=f"{len(files)} shards with {len(kinds)} sets of columns",
            allowed="at least one shard, and the same columns in all",
            next="write them with one writer",
        )
    summary = {
        "kind": kind,
        "columns": [column.document() for column in next(iter(kinds))],
        "shards": [[name, len(shard)] for name, shard in shards.items()],
    }
    return _of(store.publish(key, dict(files), summary=summary, lineage=lineage))


def open_set(store: ObjectStore, key: str) -> SampleSet:
    """The set committed under `key`.

    Raises:
        ArtifactError: there is none, or it is another kind of artifact.
        SignatureError, DigestError: as of `ObjectStore.find`.
    """
    return _of(store.get(key))


def _of(artifact: Artifact) -> SampleSet:
    try:
        summary = artifact.summary
        shards = []
        for name, num_samples in summary["shards"]:
            entry = artifact.entries[name]
            shards.append(Shard(f"{artifact.key}/{entry.path}", int(num_samples), entry.num_bytes, entry.sha256))
        columns = tuple(Column.of(column) for column in summary["columns"])
        return SampleSet(artifact.key, artifact.digest, str(summary["kind"]), columns, tuple(shards))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{artifact.store.url}/{artifact.key} is not a set of shards",
            got=f"{type(error).__name__}: {error}",
            next="give the key of a set that millrace.shards.publish made",
        ) from error
