"""Makes batches in the background: gathers this rank's rows from the mapped shards and begins their copy."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

import numpy as np

from millrace.loader.device import Arrays, Placed, ToCuda, ToHost
from millrace.loader.order import Indices
from millrace.loader.plan import Plan
from millrace.loader.position import Position
from millrace.loader.shelf import Shelf, ShelfClosedError


@dataclass(frozen=True)
class Ready:
    """A batch that waits for the trainer: the position before it, and this rank's rows."""

    position: Position
    placed: Placed


class Assembly:
    """A thread that makes the batches from `position` on, `depth` ahead of the trainer; `rows` is this rank's share."""

    def __init__(
        self, plan: Plan, shelf: Shelf, placer: ToHost | ToCuda, rows: slice, position: Position, epochs: int | None
    ) -> None:
        self._plan, self._shelf, self._placer, self._rows = plan, shelf, placer, rows
        self._position, self._epochs = position, epochs
        self._ready = queue.Queue[Ready | BaseException | None]()
        self._free = threading.Semaphore(0)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self, depth: int) -> None:
        self._free.release(depth)
        self._thread.start()

    def take(self) -> Ready | None:
        """The next batch; None after the last one.

        Raises:
            MillraceError: what kept it from being made.
        """
        found = self._ready.get()
        self._free.release()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        self._closed.set()
        self._free.release()
        self._shelf.close()
        self._thread.join()

    def _run(self) -> None:
        position = self._position
        try:
            while self._epochs is None or position.epoch < self._epochs:
                first, last = self._plan.turns(position)
                self._shelf.need(first, last)
                self._free.acquire()
                if self._closed.is_set():
                    return
                self._ready.put(Ready(position, self._made(position)))
                position = self._plan.after(position)
            self._ready.put(None)
        except ShelfClosedError:
            return
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is waited for
            self._ready.put(error)

    def _made(self, position: Position) -> Placed:
        slots, rows = self._plan.take(position)
        return self._placer.place(self._gathered(position.epoch, slots[self._rows], rows[self._rows]))

    def _gathered(self, epoch: int, slots: Indices, rows: Indices) -> Arrays:
        """This rank's rows, [len(rows), *shape] for each column: one gather for each shard that they lie in."""
        columns = self._plan.samples.columns
        arrays = self._placer.buffers(
            {column.name: ((len(rows), *column.shape), np.dtype(column.dtype)) for column in columns}
        )
        by_slot = np.argsort(slots, kind="stable")
        ends = np.flatnonzero(np.diff(slots[by_slot])) + 1
        for where in np.split(by_slot, ends):
            if len(where):
                turn = epoch * len(self._plan.samples.shards) + int(slots[where[0]])
                shard = self._shelf.get(turn)
                for name, array in arrays.items():
                    array[where] = shard.columns[name][rows[where]]
        return arrays
