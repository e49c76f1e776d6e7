"""Writes a distributed state: each rank its own safetensors files, then one index and one commit by the coordinator."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from millrace.errors import ArtifactError
from millrace.retries import Retries
from millrace.storage import Artifact, Entry, ObjectStore, new_attempt
from ray_jobs.train.checkpoints.index import INDEX, NAMES, Chunk, Index, StoredTensor

#: A file is read whole, as its digest is checked before a byte is used: this bounds what a reader holds in memory.
FILE_BYTES = 256 * 2**20
_ALIGNMENT = 8


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where an item went."""

    file: str
    start: int
    entry: Entry


class Writer(StorageWriter):
    """Of one checkpoint, under `key`; `prove` is asked last before the commit, on the coordinator."""

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        summary: Mapping[str, Any],
        lineage: Mapping[str, Any],
        prove: Callable[[], None],
        retries: Retries,
    ) -> None:
        self._store, self._key, self._retries = store, key, retries
        self._summary, self._lineage, self._prove = summary, lineage, prove
        self._attempt = new_attempt()
        self.committed: Artifact  # set by `finish`, on the coordinator

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept between checkpoints: each has a writer of its own."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: a rank's part is told by its plan."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """All ranks write for the coordinator's attempt, each into files of its own name."""
        return [
            dataclasses.replace(plan, storage_data=(self._attempt, f"rank-{rank:05d}"))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        attempt, stem = plan.storage_data
        results: list[WriteResult] = []
        for number, items in enumerate(_in_files(plan.items)):
            name = f"{stem}-{number:04d}.safetensors"
            pieces = _File(items, planner)
            entry = self._retries.call(partial(self._put, attempt, name, pieces))
            results += [
                WriteResult(item.index, _num_bytes(item), _Place(name, start, entry))
                for item, start in zip(items, pieces.starts, strict=True)
            ]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def _put(self, attempt: str, name: str, pieces: _File) -> Entry:
        return self._store.put(self._key, attempt, name, pieces)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {(r.index.fqn, tuple(r.index.offset or ())): r.storage_data for rank in results for r in rank}
        index = Index({name: _stored(name, found, places) for name, found in metadata.state_dict_metadata.items()})
        entries = {place.file: place.entry for place in places.values()}
        content = index.encode()
        entries[INDEX] = self._retries.call(lambda: self._store.put(self._key, self._attempt, INDEX, content))
        self._prove()
        self.committed = self._retries.call(
            lambda: self._store.commit(self._key, entries, summary=self._summary, lineage=self._lineage)
        )

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False


def _stored(name: str, found: Any, places: Mapping[tuple[str, tuple[int, ...]], _Place]) -> StoredTensor:
    if not isinstance(found, TensorStorageMetadata):
        raise _no_tensor(name)
    chunks = {}
    for chunk in found.chunks:
        place = places[name, tuple(chunk.offsets)]
        chunks[tuple(chunk.offsets)] = Chunk(tuple(chunk.offsets), tuple(chunk.sizes), place.file, place.start)
    return StoredTensor(NAMES[found.properties.dtype], tuple(found.size), chunks)


def _in_files(items: Sequence[WriteItem]) -> Iterator[list[WriteItem]]:
    """The items in groups of at most FILE_BYTES (a larger one alone), wide types first: so each lies aligned."""
    group: list[WriteItem] = []
    size = 0
    for item in sorted(items, key=lambda item: -_dtype(item).itemsize):
        if group and size + _num_bytes(item) > FILE_BYTES:
            yield group
            group, size = [], 0
        group.append(item)
        size += _num_bytes(item)
    if group:
        yield group


class _File:
    """The bytes of a safetensors file, piece by piece, as often as asked; `starts` are the items' first bytes."""

    def __init__(self, items: Sequence[WriteItem], planner: SavePlanner) -> None:
        self._items, self._planner = items, planner
        header, begin = {}, 0
        begins = []
        for item in items:
            end = begin + _num_bytes(item)
            header[_title(item)] = {
                "dtype": NAMES[_dtype(item)],
                "shape": list(_data(item).chunk.sizes),
                "data_offsets": [begin, end],
            }
            begins.append(begin)
            begin = end
        document = json.dumps(header, separators=(",", ":")).encode()
        document += b" " * (-len(document) % _ALIGNMENT)
        self._head = len(document).to_bytes(8, "little") + document
        self.starts = [len(self._head) + begin for begin in begins]

    def __iter__(self) -> Iterator[memoryview]:
        yield memoryview(self._head)
        for item in self._items:
            tensor = self._planner.resolve_data(item)
            if not isinstance(tensor, torch.Tensor):
                raise _no_tensor(item.index.fqn)
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            if flat.numel():
                yield memoryview(cast("Any", flat.view(torch.uint8).numpy()))


def _title(item: WriteItem) -> str:
    """The chunk's name inside its file, for whoever opens it with other tools: the index is what is read."""
    chunk, full = _data(item).chunk, _data(item).size
    whole = tuple(chunk.sizes) == tuple(full)
    return item.index.fqn if whole else f"{item.index.fqn}[{','.join(map(str, chunk.offsets))}]"


def _data(item: WriteItem) -> Any:
    if item.tensor_data is None:
        raise _no_tensor(item.index.fqn)
    return item.tensor_data


def _no_tensor(name: str) -> ArtifactError:
    return ArtifactError(
        f"'{name}' is no tensor", allowed="tensors in the state, JSON in `extra`", next="move it to `extra`"
    )


def _dtype(item: WriteItem) -> torch.dtype:
    dtype: torch.dtype = _data(item).properties.dtype
    if dtype not in NAMES:
        raise ArtifactError(
            f"tensor '{item.index.fqn}' has a type that cannot be kept",
            got=str(dtype),
            allowed=", ".join(map(str, NAMES)),
            next="convert it before it is saved",
        )
    return dtype


def _num_bytes(item: WriteItem) -> int:
    return int(torch.Size(_data(item).chunk.sizes).numel()) * _dtype(item).itemsize
