"""The loader of one rank."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from millrace.errors import ConfigError, ConflictError, SettingsError
from millrace.loader.assembly import Assembly
from millrace.loader.cache import Cache
from millrace.loader.device import placer
from millrace.loader.fetch import Fetcher, Policy, Source
from millrace.loader.plan import Last, Plan
from millrace.loader.position import Position
from millrace.loader.share import share
from millrace.loader.shelf import Shelf
from millrace.loader.tuning import Tuning
from millrace.shards import SampleSet, Shard

if TYPE_CHECKING:
    import torch

_VERSION = 1
_MOST_THREADS, _MOST_DEPTH = 32, 256
_BATCHES_AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """This rank's rows of the global batch `step`, [share, *shape] for each column; `wait_seconds`: how long for."""

    step: int
    epoch: int
    tensors: dict[str, torch.Tensor]
    wait_seconds: float


class Loader:
    """Batches for `rank` of `world_size`, from `samples` as `source` has them, for `epochs` epochs (None: for ever).

    The order depends on `samples`, `seed` and `window` (shards that are mixed with each other); the global batches also
    on `batch_size` (of all ranks together) and `last` (see Plan); neither on the ranks. `cache` is needed for a source
    that is not on this machine; it has to hold three windows, more when a batch is larger than a window.

    Raises:
        ConfigError, DataError: there can be no such batches, or not for so many ranks.
        SettingsError: the cache is too small, or missing.
    """

    def __init__(
        self,
        samples: SampleSet,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        epochs: int | None = None,
        cache: Cache | None = None,
        device: torch.device | str = "cpu",
        window: int = 8,
        last: Last = "fill",
        policy: Policy | None = None,
        batches_ahead: int = _BATCHES_AHEAD,
    ) -> None:
        if not 0 <= rank < world_size <= batch_size:
            raise ConfigError(
                "batches cannot be shared out so",
                got=f"rank {rank} of {world_size}, batch_size {batch_size}",
                allowed="rank < world_size <= batch_size",
                next="choose a batch_size of at least the number of ranks",
            )
        self.samples = samples
        self._plan = Plan(samples, batch_size, seed, window, last)
        self._rows, self._epochs, self._device = share(batch_size, rank, world_size), epochs, device
        self._fetcher, self._cache = Fetcher(source, policy), cache
        self._ahead = max(1, batches_ahead)
        most_threads, self._most_shards = self._bounds()
        self._tuning = Tuning(most_threads, window, max(window, self._most_shards - window))
        self._position = Position()
        self._assembly: Assembly | None = None
        self._num_batches, self._wait_seconds, self._first_wait_seconds = 0, 0.0, 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the same for every rank."""
        return self._plan.steps_per_epoch

    @property
    def position(self) -> Position:
        """What the trainer has taken."""
        return self._position

    def __iter__(self) -> Iterator[Batch]:
        """The batches from the position on. What an earlier iteration fetched ahead is fetched again."""
        import torch

        self.close()
        shelf = Shelf(self._shard_at, self._fetcher, self._cache, self._tuning, self._most_shards)
        place = placer(torch.device(self._device), self._ahead, widen=self.samples.kind == "tokens")
        self._assembly = assembly = Assembly(self._plan, shelf, place, self._rows, self._position, self._epochs)
        assembly.start(self._ahead)
        shards_a_step = len(self.samples.shards) / self.steps_per_epoch
        left = None
        try:
            while True:
                came = time.monotonic()
                ready = assembly.take()
                if ready is None:
                    return
                tensors = ready.placed.receive()
                now = time.monotonic()
                self._num_batches += 1
                if left is None:
                    self._first_wait_seconds += now - came
                else:
                    self._wait_seconds += now - came
                    self._tuning.consumed(shards_a_step, came - left)
                left = now
                self._position = self._plan.after(ready.position)
                yield Batch(ready.position.step, ready.position.epoch, tensors, now - came)
        finally:
            assembly.close()

    def state_dict(self) -> dict[str, Any]:
        """The position and what it is a position in: JSON, some 250 bytes whatever the set's size."""
        return {"version": _VERSION, **self._identity(), **asdict(self._position)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken, by whatever number of ranks.

        Raises:
            ConflictError: it is a position in other data or another order.
        """
        for name, mine in {"version": _VERSION, **self._identity()}.items():
            if state.get(name) != mine:
                raise ConflictError(
                    f"the position is one in other data: its {name} differs",
                    got=state.get(name),
                    allowed=repr(mine),
                    next="start with the data, seed, window and batch_size of the run that goes on, or anew",
                )
        position = Position(*(state.get(name, -1) for name in ("epoch", "sample", "step")))
        if any(type(value) is not int or value < 0 for value in asdict(position).values()) or (
            position.sample >= self._plan.num_usable or position.sample % self._plan.batch_size
        ):
            raise ConflictError(
                "the position lies outside of the data",
                got=asdict(position),
                allowed=f"whole batches of {self._plan.batch_size} below {self._plan.num_usable} samples",
                next="take the state of another checkpoint",
            )
        self.close()
        self._position = position

    def report(self) -> dict[str, float]:
        """What was waited for and how the loader is tuned; `wait_seconds` leaves out each iteration's first batch."""
        return {
            "batches": self._num_batches,
            "wait_seconds": self._wait_seconds,
            "first_wait_seconds": self._first_wait_seconds,
            "fetch_seconds": self._tuning.fetch_seconds,
            "fetch_threads": self._tuning.threads,
            "shards_ahead": self._tuning.depth,
            "retries": self._fetcher.num_retries,
            "hedges": self._fetcher.num_hedges,
        }

    def close(self) -> None:
        """Stop fetching; the position stays."""
        if self._assembly is not None:
            self._assembly.close()
            self._assembly = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _identity(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "data": self.samples.digest,
            "seed": plan.seed,
            "window": plan.window,
            "batch_size": plan.batch_size,
            "last": plan.last,
        }

    def _shard_at(self, turn: int) -> Shard | None:
        if self._epochs is not None and turn >= self._epochs * len(self.samples.shards):
            return None
        return self._plan.shard_at(turn)

    def _bounds(self) -> tuple[int, int]:
        """Most threads and most shards at a time: as many as the cache holds, less a window for ranks that lag."""
        source, shards, window = self._fetcher.source, self.samples.shards, self._plan.window
        if source.local_path(shards[0]) is not None:
            # What lies on this machine is only checked and mapped; more threads would take the trainer's processors.
            return 2, self._plan.most_in_use + window
        if self._cache is None:
            raise SettingsError(
                f"{source.url} is not on this machine, and there is no cache for its shards",
                next="give Loader(cache=Cache(folder, max_bytes))",
            )
        if self._cache.max_bytes >= self.samples.num_bytes:
            return _MOST_THREADS, self._plan.most_in_use + _MOST_DEPTH
        most_bytes = max(shard.num_bytes for shard in shards)
        least = self._plan.most_in_use + window
        if self._cache.max_bytes < least * most_bytes:
            raise SettingsError(
                "the cache of shards is too small for the loader's window",
                got=f"{self._cache.max_bytes} bytes",
                allowed=f"at least {least * most_bytes}: {least} shards, of the windows in use and one more",
                next="raise its bound, or choose a smaller window",
            )
        return _MOST_THREADS, self._cache.max_bytes // most_bytes - window
