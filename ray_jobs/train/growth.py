"""When an elastic training that goes on in few workers should begin again in more.

Ray Train resizes a group by ending its workers where they stand. Here they are asked to leave, as before a preemption:
they take a checkpoint first, so that no step is lost, and the next attempt has its own account.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from millrace.logs import get_logger

#: There must be room for so long before a training is stopped for it: starting again costs seconds of all workers.
PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 5.0

#: How many workers more there is room for now.
Room = Callable[[], int]


class Growth:
    """Whether there has been room for more workers for a while; `most` is how many are wanted.

    An attempt that was begun for that and has no more workers than before doubles the time until the next one.
    """

    def __init__(self, most: int, room: Room, patience: float = PATIENCE_SECONDS) -> None:
        self._most, self._room, self._patience = most, room, patience
        self._looked = float("-inf")
        self._since: float | None = None
        self._before: int | None = None

    def is_due(self, world_size: int, now: float) -> bool:
        """Whether an attempt that takes steps in `world_size` workers is to end, at `now` in seconds of any clock."""
        if self._before is not None:
            self._patience *= 1 if world_size > self._before else 2
            self._before = None
        if world_size >= self._most or now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        if self._room() < 1:
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        if now - self._since < self._patience:
            return False
        self._since, self._before = None, world_size
        return True


def room_for(each: Mapping[str, float]) -> Room:
    """The room for workers with so much each on the nodes of the cluster that stay."""

    def room() -> int:
        from ray._private.state import available_resources_per_node
        from ray._private.worker import global_worker
        from ray.exceptions import RayError

        try:
            free: Mapping[str, Mapping[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
            leaving = global_worker.gcs_client.get_draining_nodes(timeout=_ANSWER_SECONDS)  # type: ignore[attr-defined]
        except (RayError, RuntimeError, ConnectionError) as error:
            get_logger().debug("the cluster does not say what is free", error=str(error))
            return 0
        return sum(fitting(resources, each) for node, resources in free.items() if node not in leaving)

    return room


def fitting(free: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many workers with so much each fit into what is free on one node."""
    return int(min(free.get(name, 0.0) // amount for name, amount in each.items() if amount > 0))
