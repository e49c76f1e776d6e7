"""The checkpoints of one training run: save beside the training, load into any layout, keep few."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner

from millrace.errors import ArtifactError, MillraceError
from millrace.retries import Retries
from millrace.storage import Artifact, ObjectStore
from ray_jobs.train.checkpoints.index import DTYPES
from ray_jobs.train.checkpoints.line import Line, Place
from ray_jobs.train.checkpoints.reader import Reader, read_index
from ray_jobs.train.checkpoints.staging import HostCopy
from ray_jobs.train.checkpoints.state import Signatures, Tensors, require_same, signatures
from ray_jobs.train.checkpoints.writer import Writer

_LOAD_TRIES = 3


@dataclass(frozen=True)
class Loaded:
    """Which checkpoint was loaded, and what it says beside its tensors."""

    step: int
    extra: Mapping[str, Any]
    artifact: Artifact


class Checkpoints:
    """Those under `prefix`. Every rank of `group` has one, and calls each method equally often.

    Args:
        keep: So many of the newest stay.
        prove: Raises when this run may no longer publish; asked on the coordinator.
        group: Ranks that save together, with a CPU back end (gloo) of its own: saves run beside the training's
            collectives. None: the default group when there is one, which must have a CPU back end then.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefix: str,
        *,
        keep: int = 2,
        prove: Callable[[], None] = lambda: None,
        group: dist.ProcessGroup | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._retries = retries or Retries()
        self._line = Line(store, prefix, self._retries)
        self._keep, self._prove, self._group = max(1, keep), prove, group
        self._generation: int | None = None  # claimed at the first load or save
        self._loaded: Place | None = None
        self._copy = HostCopy()
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[Artifact] | None = None

    def save(self, step: int, state: Tensors, extra: Mapping[str, Any], *, also: int | None = None) -> Artifact:
        """Commit `state` (tensors or DTensors by name) and `extra` (JSON) as the checkpoint of `step`; then retention.

        Of those before it, the newest of step `also` stays whatever its age.

        Raises:
            FencedError: `prove` says that this run may no longer publish; nothing was committed.
            ServiceError: the store does not answer or is full; the checkpoints before it stand.
        """
        self.wait()
        _require_json(extra)
        return self._commit(self._open(), step, state, extra, also)

    def save_async(self, step: int, state: Tensors, extra: Mapping[str, Any], *, also: int | None = None) -> None:
        """As `save`, but return once the tensors are copied into host memory; the rest happens in a thread.

        One save is in flight: a second one waits for it, on all ranks alike. What it raised is raised here, by the
        next call of any method.
        """
        self.wait()
        _require_json(extra)
        generation = self._open()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        staged = self._copy.of(state)
        self._running = self._pool.submit(self._commit, generation, step, staged, dict(extra), also)

    @property
    def is_saving(self) -> bool:
        """Whether a save is in flight on this rank."""
        return self._running is not None and not self._running.done()

    def wait(self) -> Artifact | None:
        """The checkpoint that was in flight, once it is committed; None when there was none. Raises what it raised."""
        running, self._running = self._running, None
        return None if running is None else running.result()

    def newest(self) -> Loaded | None:
        """The newest committed checkpoint, not read yet."""
        return next((_told(place, artifact) for place, artifact in self._line.committed()), None)

    def committed(self) -> list[Loaded]:
        """All that can be loaded, newest first."""
        return [_told(place, artifact) for place, artifact in self._line.committed()]

    def load_into(self, state: Tensors, at: int | None = None) -> Loaded | None:
        """Fill `state` in place from the newest checkpoint, or that of step `at`, whatever layout it was saved in.

        What is saved from now on follows the loaded one, also when that is not the newest: it was gone back to.

        Returns:
            What was loaded; None when there is nothing.

        Raises:
            ArtifactError: there is none of step `at`, it is of another model (nothing was changed), or a file is gone.
            DigestError: a file is not what was committed; it was not parsed. `state` may be filled in part.
        """
        self.wait()
        self._generation = None
        self._open()
        for last in (False,) * (_LOAD_TRIES - 1) + (True,):
            found = self._agree(lambda: self._select(at))
            if found is None:
                return None
            place, artifact = found
            try:
                self._load(state, artifact)
            except ArtifactError:
                # Another writer's retention took it away meanwhile: there is a newer one then.
                gone = self._agree(partial(self._gone, place))
                if last or not gone:
                    raise
                continue
            self._loaded = place
            return _told(place, artifact)
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Wait for the save in flight, and let go of its thread and memory."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
            self._copy.close()
            self._pool = None

    # Inside

    @property
    def _is_distributed(self) -> bool:
        return dist.is_available() and dist.is_initialized()

    @property
    def _is_coordinator(self) -> bool:
        return not self._is_distributed or dist.get_rank(self._group) == 0

    def _agree(self, work: Callable[[], Any]) -> Any:
        """What `work` gives on the coordinator, or raises there, on every rank."""
        told: list[Any] = [None, None]
        if self._is_coordinator:
            try:
                told[0] = work()
            except MillraceError as error:
                told[1] = error
        if self._is_distributed:
            dist.broadcast_object_list(told, group=self._group, group_src=0)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def _open(self) -> int:
        if self._generation is None:
            self._generation = self._agree(self._claim)
        return self._generation

    def _claim(self) -> int:
        self._prove()
        return self._line.claim()

    def _select(self, at: int | None) -> tuple[Place, Artifact] | None:
        found = next((pair for pair in self._line.committed() if at is None or pair[0].step == at), None)
        if found is None and at is not None:
            steps = [place.step for place, _ in self._line.committed()]
            raise ArtifactError(
                f"no checkpoint of step {at} under {self._line.prefix}",
                allowed=", ".join(map(str, steps)) or "there is none at all",
                next="ask for one of these steps",
            )
        return found

    def _gone(self, place: Place) -> bool:
        return self._line.find(place) is None

    def _load(self, state: Tensors, artifact: Artifact) -> None:
        index = read_index(artifact, self._retries)
        stored = {name: (tensor.shape, DTYPES[tensor.dtype]) for name, tensor in index.tensors.items()}
        require_same(stored, self._of_all_ranks(signatures(state)), artifact.key)
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        reader = Reader(artifact, index, self._retries)
        _quiet()
        with _ours():
            dcp.load(dict(state), storage_reader=reader, planner=planner, process_group=self._group)

    def _of_all_ranks(self, mine: Signatures) -> Signatures:
        """With pipeline stages, a rank has some of the tensors only."""
        if not self._is_distributed:
            return mine
        found: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(found, mine, group=self._group)
        return {name: signature for each in found for name, signature in each.items()}

    def _commit(
        self, generation: int, step: int, state: Tensors, extra: Mapping[str, Any], also: int | None
    ) -> Artifact:
        place = Place(generation, step)
        writer = Writer(
            self._line.store,
            self._line.key(place),
            summary={"step": step, "extra": dict(extra)},
            lineage={},
            prove=self._prove,
            retries=self._retries,
        )
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        _quiet()
        with _ours():
            dcp.save(dict(state), storage_writer=writer, planner=planner, process_group=self._group)
        artifact: Artifact = self._agree(lambda: self._swept(place, writer, also))
        return artifact

    def _swept(self, place: Place, writer: Writer, also: int | None) -> Artifact:
        kept = [self._loaded] if self._loaded is not None else []
        self._line.sweep(place, self._keep, kept, also)
        return writer.committed


def _told(place: Place, artifact: Artifact) -> Loaded:
    return Loaded(place.step, artifact.summary.get("extra", {}), artifact)


def _require_json(extra: Mapping[str, Any]) -> None:
    try:
        json.dumps(dict(extra), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            "what a checkpoint says beside its tensors is no JSON",
            got=str(error),
            allowed="texts, finite numbers, lists and objects",
            next="leave it out of `extra`; if a loss is not finite, go back with load_into",
        ) from error


def _quiet() -> None:
    """torch warns when a single process saves; that is how a run with one worker works."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


class _ours:  # noqa: N801 - reads as a statement
    """Raises the first error of ours among those that torch collected from the ranks."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, CheckpointException):
            return
        failures = [failure for failure, _ in error.failures.values()]
        raise next((failure for failure in failures if isinstance(failure, MillraceError)), failures[0]) from error
