"""Reads a checkpoint into any layout: each rank the files that its own shards need, each digest before its bytes."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from millrace.errors import DigestError
from millrace.retries import Retries
from millrace.storage import Artifact
from ray_jobs.train.checkpoints.index import DTYPES, INDEX, Index, num_bytes_of

#: Files read at once: so many times writer.FILE_BYTES are held in memory.
_AT_ONCE = 4


def read_index(artifact: Artifact, retries: Retries) -> Index:
    """The index of a committed checkpoint.

    Raises:
        ArtifactError: it is absent or no index.
        DigestError: it is not what was committed.
    """
    content = retries.call(lambda: artifact.read(INDEX), again_on=(DigestError,))
    sizes = {name: entry.num_bytes for name, entry in artifact.entries.items()}
    return Index.decode(content, sizes, f"{artifact.store.url}/{artifact.key}/{INDEX}")


class Reader(StorageReader):
    """Of one committed checkpoint."""

    def __init__(self, artifact: Artifact, index: Index, retries: Retries) -> None:
        self._artifact, self._index, self._retries = artifact, index, retries

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing is kept between loads."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._index.metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: ranks read alike."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self._chunk(item)[1].file].append(item)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="checkpoint-read") as pool:
            for _ in pool.map(lambda file: self._read_file(file, by_file[file], planner), sorted(by_file)):
                pass
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read_file(self, file: str, items: list[ReadItem], planner: LoadPlanner) -> None:
        # A truncated answer looks as a damaged file does: asked again, it is whole, or the file is damaged.
        content = self._retries.call(lambda: self._artifact.read(file), again_on=(DigestError,))
        writable = bytearray(content)  # torch warns of memory that may not be written to
        for item in items:
            dtype, chunk = self._chunk(item)
            if num_bytes_of(dtype, chunk.sizes) == 0:
                continue
            numbers = torch.Size(chunk.sizes).numel()
            stored = torch.frombuffer(writable, dtype=DTYPES[dtype], count=numbers, offset=chunk.start)
            stored = stored.reshape(chunk.sizes)
            for dim, (begin, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                stored = stored.narrow(dim, begin, length)
            target = planner.resolve_tensor(item)
            target.detach().copy_(stored)
            planner.commit_tensor(item, target)

    def _chunk(self, item: ReadItem) -> tuple[str, Any]:
        tensor = self._index.tensors[item.storage_index.fqn]
        return tensor.dtype, tensor.chunks[tuple(item.storage_index.offset or ())]

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return False
