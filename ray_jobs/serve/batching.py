"""Requests answered together: whatever has come in while the model was busy is its next batch.

Nothing is waited for. A lone request is executed at once, and under load batches grow by themselves to what the load
needs: with a fixed cost a batch, that is the shortest queue there can be without knowing the future. The only thing to
choose is how large a batch may get. A request may arrive right after one has begun, so two of them must fit into the
latency target; the sizes that do are known from what batches have cost so far (`BatchCost`).

A request that cannot be answered in time is refused at once, not after it has waited: what it would have taken goes to
others who can still be answered. Customers take turns, so the queue of one is not what others wait for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.batch_cost import BatchCost
from millrace.errors import OverloadedError
from ray_jobs.serve.cache import AnswerCache

Batch = Mapping[str, NDArray[Any]]
Answers = NDArray[np.float32]

#: Rows of a batch where no latency target bounds it.
_MOST_ROWS = 4096
#: Two batches lie between a request that just missed one and its answer.
_BATCHES = 2.0


@dataclass(slots=True, eq=False)
class Turn:
    """One request's way through the batcher; its moments are of the batcher's clock, infinite until they come.

    `done` gives the answers to it, or raises what went wrong. `cached_rows` were answered without the model.
    """

    batch: Batch
    rows: int
    customer: str
    deadline: float
    done: asyncio.Future[Answers]
    queued: float
    taken: float = float("inf")
    began: float = float("inf")
    ended: float = float("inf")
    batch_rows: int = 0
    cached_rows: int = 0

    @property
    def answers(self) -> Answers:
        """What `done` gave."""
        return self.done.result()


@dataclass
class Batcher:
    """Executes the requests of one version on the event loop's thread.

    `execute` maps an encoded batch to float32 [rows] or [rows, outputs], row by row: one row's answer must not depend
    on the others. `target_seconds` is the latency target; None: none.
    """

    execute: Callable[[Batch], Answers]
    target_seconds: float | None = None
    cache: AnswerCache | None = None
    cost: BatchCost = field(default_factory=BatchCost)
    clock: Callable[[], float] = perf_counter
    #: Told of each batch: the seconds of this process that its rows need at the least, and how many they are. A small
    #: batch takes longer for each row, but only because there is time for it: that is no load.
    worked: Callable[[float, int], None] = field(default=lambda seconds, rows: None, repr=False)
    #: Batchers of other versions on the same event loop; between two batches of this one, each of them has one.
    peers: tuple[Batcher, ...] = field(default=(), repr=False, compare=False)
    _queues: dict[str, deque[Turn]] = field(default_factory=dict, init=False)
    _rows: int = field(default=0, init=False)
    _rows_of: dict[str, int] = field(default_factory=dict, init=False)
    _is_due: bool = field(default=False, init=False)

    @property
    def waiting_rows(self) -> int:
        return self._rows

    @property
    def most_rows(self) -> int:
        """The largest batch that lets a request that just missed one be answered in time."""
        if self.target_seconds is None:
            return _MOST_ROWS
        return min(_MOST_ROWS, self.cost.rows_within(self.target_seconds / (_BATCHES * (1 + len(self.peers)))))

    def deadline(self, arrived: float) -> float:
        """When a request that arrived then is of no use any more."""
        return float("inf") if self.target_seconds is None else arrived + self.target_seconds

    def require_time(self, customer: str, deadline: float, rows: int = 1) -> None:
        """Refuse what cannot be answered in time; cheap enough to ask before a body is parsed.

        Raises:
            OverloadedError: the queue is too long.
        """
        if deadline == float("inf"):
            return
        if not self._rows and not (self.peers and any(peer.waiting_rows for peer in self.peers)):
            return
        wait = self._wait(customer, rows)
        if self.clock() + wait > deadline:
            raise overloaded(wait)

    async def answer(self, batch: Batch, *, customer: str = "", deadline: float = float("inf")) -> Turn:
        """The turn of an encoded batch of at least one row, which has been answered.

        Raises:
            OverloadedError: its turn would come after `deadline`.
            Exception: whatever `execute` raised for this request alone.
        """
        turn = self.ask(batch, customer=customer, deadline=deadline)
        await turn.done
        return turn

    def ask(self, batch: Batch, *, customer: str = "", deadline: float = float("inf")) -> Turn:
        """The same, before it is answered: `done` raises what `answer` would; for who wants to know how far it got.

        Raises:
            OverloadedError: its turn would come after `deadline`.
        """
        rows = len(batch["numeric"])
        self.require_time(customer, deadline, rows)
        loop = asyncio.get_running_loop()
        turn = Turn(batch, rows, customer, deadline, loop.create_future(), self.clock())
        queue = self._queues.get(customer)
        if queue is None:
            queue = self._queues[customer] = deque()
            self._rows_of[customer] = 0
        queue.append(turn)
        self._rows += rows
        self._rows_of[customer] += rows
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._flush)
        return turn

    def _wait(self, customer: str, rows: int) -> float:
        """Seconds until `rows` more of the customer would be answered, when customers take turns."""
        mine = self._rows_of.get(customer, 0) + rows
        ahead = min(self._rows + rows, mine * (len(self._queues) + (customer not in self._queues)))
        batches, rest = divmod(ahead, self.most_rows)
        own = batches * self.cost.seconds(self.most_rows) + (self.cost.seconds(rest) if rest else 0.0)
        return own + sum(peer.backlog(batches + 1) for peer in self.peers)

    def backlog(self, batches: int) -> float:
        """Seconds that its next `batches` batches will take, as far as there are so many."""
        whole, rest = divmod(self._rows, self.most_rows)
        seconds = min(whole, batches) * self.cost.seconds(self.most_rows)
        return seconds + (self.cost.seconds(rest) if rest and whole < batches else 0.0)

    def _flush(self) -> None:
        self._is_due = False
        now, taken = self.clock(), self._take()
        rows = sum(turn.rows for turn in taken)
        ends = now + self.cost.seconds(rows)
        kept = []
        for turn in taken:
            if turn.done.cancelled():
                continue
            turn.taken = now
            if ends > turn.deadline:
                turn.done.set_exception(overloaded(ends - now))
            else:
                kept.append(turn)
        if self._rows:
            # Not at once: who arrived meanwhile, and who is answered now, comes first.
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._flush)
        if kept:
            self._answer(kept)

    def _take(self) -> list[Turn]:
        """The next batch: the oldest request of each customer in turn, at least one."""
        most, rows = self.most_rows, 0
        taken: list[Turn] = []
        while self._queues:
            customer, queue = next(iter(self._queues.items()))
            if taken and rows + queue[0].rows > most:
                break  # the next batch begins with whose turn it is
            turn = queue.popleft()
            taken.append(turn)
            rows += turn.rows
            self._rows_of[customer] -= turn.rows
            del self._queues[customer]
            if queue:
                self._queues[customer] = queue  # the last in turn now
            else:
                del self._rows_of[customer]
        self._rows -= rows
        return taken

    def _answer(self, taken: list[Turn]) -> None:
        began = self.clock()
        for turn in taken:
            turn.began, turn.cached_rows = began, 0
        try:
            answers = self._execute(taken)
        except Exception as error:  # noqa: BLE001 - it is told to whom it belongs
            if len(taken) == 1:
                taken[0].ended = self.clock()
                taken[0].done.set_exception(error)
            else:
                # One request must not fail for another one's sake.
                for turn in taken:
                    self._answer([turn])
            return
        ended, start = self.clock(), 0
        rows = len(answers)
        for turn in taken:
            turn.ended, turn.batch_rows = ended, rows
            if not turn.done.cancelled():
                turn.done.set_result(answers[start : start + turn.rows])
            start += turn.rows

    def _execute(self, taken: list[Turn]) -> Answers:
        batch = taken[0].batch if len(taken) == 1 else _joined([turn.batch for turn in taken])
        if self.cache is None:
            return self._timed(batch)
        cache = self.cache
        keys = [(key, turn) for turn in taken for key in cache.keys(turn.batch, turn.customer)]
        # Rows that are the same are one row of the batch, whoever asks.
        places: dict[bytes, int] = {}
        known: dict[bytes, Answers] = {}
        for row, (key, turn) in enumerate(keys):
            if key in known or key in places:
                cache.hits += 1
            elif (found := cache.find(key)) is not None:
                known[key] = found
            else:
                places[key] = row
                continue
            turn.cached_rows += 1
        if places:
            fresh = self._timed({name: array[list(places.values())] for name, array in batch.items()})
            for key, answer in zip(places, fresh, strict=True):
                known[key] = answer
                if np.isfinite(answer).all():
                    cache.keep(key, answer)
        return np.stack([known[key] for key, _ in keys])

    def _timed(self, batch: Batch) -> Answers:
        began = self.clock()
        answers = self.execute(batch)
        rows, most = len(answers), self.most_rows
        self.cost.observe(rows, self.clock() - began)
        self.worked(rows * self.cost.seconds(most) / most, rows)
        return answers


def overloaded(wait: float) -> OverloadedError:
    """The error for a request that would wait `wait` seconds, longer than it may."""
    return OverloadedError(
        "the service is overloaded: this request would not be answered in time",
        got=f"a queue of {wait:.3g} s",
        next="ask again later; a queue that stays calls for more replicas (serving.replicas)",
        retry_after=wait,
    )


def _joined(batches: list[Batch]) -> Batch:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
