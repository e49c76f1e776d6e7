"""Who waits at a replica takes turns by customer: the queue of one is not what others wait for.

A replica works on some requests at once. Left to Ray Serve, later ones wait in the order in which they came, before any
code of ours: one customer that asks without end is then all that the others wait for, whatever turns they take in
batches. So Serve lets in far more than is worked on, and those wait here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

from millrace.errors import OverloadedError

#: How many times as many requests Serve lets in as are worked on. One customer may fill half of that.
ROOM = 64
#: Weight that the time between two requests that leave keeps after the next one.
_KEPT = 0.98


@dataclass
class Places:
    """Lets `most` requests at once be worked on, in one event loop."""

    most: int
    clock: Callable[[], float] = perf_counter
    _taken: int = field(default=0, init=False)
    _waiting: int = field(default=0, init=False)
    _queues: dict[str, deque[asyncio.Future[None]]] = field(default_factory=dict, init=False)
    #: Seconds from one that leaves to the next while others wait, and when the newest left, if others waited then.
    _pace: float = field(default=0.0, init=False)
    _left_at: float | None = field(default=None, init=False)

    async def enter(self, customer: str, deadline: float = float("inf")) -> None:
        """Take a place when it is the customer's turn; who has it calls `leave`. At once, while places are free.

        Raises:
            OverloadedError: its turn would come after `deadline`, or too many of the customer's requests wait.
        """
        if self._taken < self.most:
            self._taken += 1
            return
        queue = self._queues.get(customer)
        mine = 1 if queue is None else len(queue) + 1
        customers = len(self._queues) + (queue is None)
        wait = min(self._waiting + 1, mine * customers) * self._pace
        if mine > self.most * ROOM // 2:
            raise OverloadedError(
                "the service is overloaded: too many requests of this customer wait",
                got=f"{mine - 1:,} that wait",
                next="ask again later, or one after the other",
                retry_after=max(wait, 1.0),
            )
        if self.clock() + wait > deadline:
            raise OverloadedError(
                "the service is overloaded: this request would not be answered in time",
                got=f"a queue of {wait:.3g} s",
                next="ask again later; a queue that stays calls for more replicas (serving.replicas)",
                retry_after=wait,
            )
        if queue is None:
            queue = self._queues[customer] = deque()
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._waiting += 1
        try:
            await turn
        except asyncio.CancelledError:
            # Its caller went away; the place may have been given to it just before.
            if not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place to whose turn it is."""
        if self._queues:
            now = self.clock()
            if self._left_at is not None:
                took = now - self._left_at
                self._pace = self._pace * _KEPT + took * (1 - _KEPT) if self._pace else took
            self._left_at = now
        else:
            self._left_at = None
        while self._queues:
            customer, queue = next(iter(self._queues.items()))
            turn = queue.popleft()
            self._waiting -= 1
            del self._queues[customer]
            if queue:
                self._queues[customer] = queue  # the last in turn now
            if not turn.cancelled():
                turn.set_result(None)
                return
        self._taken -= 1
