"""What each batch consists of: the epochs' orders, and the turns of their shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from millrace.errors import ConfigError, DataError
from millrace.loader.order import Indices, Order
from millrace.loader.position import Position
from millrace.shards import SampleSet, Shard

Last = Literal["fill", "drop"]


@dataclass
class Plan:
    """Global batches of `batch_size` samples; none of it knows of ranks.

    `last` says what becomes of an epoch's short last batch: filled with the samples that came just before it, so that
    all batches are alike and every sample comes in every epoch, or dropped.
    """

    samples: SampleSet
    batch_size: int
    seed: int
    window: int
    last: Last = "fill"
    _orders: dict[int, Order] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.window < 1:
            raise ConfigError(
                "batches cannot be made so",
                got=f"batch_size {self.batch_size}, window {self.window}",
                allowed="1 or more each",
                next="correct the call",
            )
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{self.samples.key} has no whole batch",
                got=f"{self.samples.num_samples} samples, batch_size {self.batch_size}",
                next="choose a smaller batch_size, or last='fill'",
            )
        self._lengths = np.array([shard.num_samples for shard in self.samples.shards], np.int64)

    @property
    def steps_per_epoch(self) -> int:
        num_samples = self.samples.num_samples
        return num_samples // self.batch_size if self.last == "drop" else -(-num_samples // self.batch_size)

    @property
    def num_usable(self) -> int:
        """Samples of the order that an epoch takes."""
        num_samples = self.samples.num_samples
        return num_samples - num_samples % self.batch_size if self.last == "drop" else num_samples

    @property
    def most_in_use(self) -> int:
        """Shards that the windows of one batch have at most."""
        smallest = int(self._lengths.min()) * min(self.window, len(self._lengths))
        return min(-(-self.batch_size // smallest) + 1, -(-len(self._lengths) // self.window)) * self.window

    def after(self, position: Position) -> Position:
        return position.after(self.batch_size, self.num_usable)

    def order(self, epoch: int) -> Order:
        order = self._orders.get(epoch)
        if order is None:
            order = Order.of(self._lengths, seed=self.seed, epoch=epoch, window=self.window)
            # This epoch's and the next one's: shards are fetched ahead over the end of an epoch.
            self._orders = {known: kept for known, kept in self._orders.items() if epoch - 1 <= known} | {epoch: order}
        return order

    def take(self, position: Position) -> tuple[Indices, Indices]:
        """The global batch at `position`: slots in the epoch's order of shards, and rows there; [batch_size] each."""
        start, stop = self._places(position)
        slots, rows = self.order(position.epoch).take(start, stop)
        # A set smaller than a batch is repeated in it.
        return np.resize(slots, self.batch_size), np.resize(rows, self.batch_size)

    def _places(self, position: Position) -> tuple[int, int]:
        """Where in the epoch's order the batch lies. A filled one ends with the order: its shards are at hand."""
        stop = min(position.sample + self.batch_size, self.samples.num_samples)
        return max(0, stop - self.batch_size), stop

    def turns(self, position: Position) -> tuple[int, int]:
        """First and last turn of the shards whose windows the batch at `position` lies in."""
        order, num_shards = self.order(position.epoch), len(self.samples.shards)
        start, stop = self._places(position)
        first = order.window_of(start) * self.window
        last = min((order.window_of(stop - 1) + 1) * self.window, num_shards) - 1
        return position.epoch * num_shards + first, position.epoch * num_shards + last

    def shard_at(self, turn: int) -> Shard:
        epoch, slot = divmod(turn, len(self.samples.shards))
        return self.samples.shards[int(self.order(epoch).shards[slot])]
