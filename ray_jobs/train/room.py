"""Room in the cluster for a training's workers: a cluster that has too little keeps a training waiting, and says so."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from millrace.errors import ConfigError
from millrace.logs import get_logger
from millrace.settings import Settings

_LOOK_SECONDS = 2.0
#: Between two words on the same wait.
_AGAIN_SECONDS = 60.0

Resources = Mapping[str, float]


def require_room(settings: Settings, pipeline: str, workers: int, each: Resources) -> None:
    """Refuse what the local head, which never grows, can never hold; another cluster may scale up for it.

    Raises:
        ConfigError: it wants more than there is.
    """
    import ray

    if settings.ray_address is not None:
        return
    total: Resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if any(total.get(name, 0.0) < workers * amount for name, amount in each.items()):
        raise ConfigError(
            f"the training of '{pipeline}' can never start: the local Ray head has too little",
            got=_wanted(workers, each),
            allowed=_of({name: total.get(name, 0.0) for name in each}),
            next="lower training.num_workers or training.cpus_per_worker, set training.use_gpu to false where there is "
            "no GPU, or name a larger cluster in MILLRACE_RAY_ADDRESS",
        )


@contextmanager
def telling_of_waits(pipeline: str, fewest: int, most: int, each: Resources) -> Iterator[None]:
    """While the block runs: when the cluster has no room for the workers yet, say what they want and what is free."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(pipeline, fewest, most, each, ended), name="room", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _watch(pipeline: str, fewest: int, most: int, each: Resources, ended: threading.Event) -> None:
    import ray
    from ray.exceptions import RayError
    from ray.util import placement_group_table

    waited, told = 0.0, float("-inf")
    while not ended.wait(_LOOK_SECONDS):
        try:
            groups = placement_group_table()
            free: Resources = ray.available_resources()  # type: ignore[no-untyped-call]
            total: Resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        except (RayError, RuntimeError, ConnectionError):
            continue  # who trains learns of it, and says so
        if not waits(groups.values(), fewest, most, each):
            waited = 0.0
            continue
        waited += _LOOK_SECONDS
        # A group is pending for a moment in each training.
        if waited > _LOOK_SECONDS and waited - told >= _AGAIN_SECONDS:
            told = waited
            get_logger().warning(
                "the training waits for room in the cluster", **wait(pipeline, fewest, each, free, total)
            )


def waits(groups: Iterable[Mapping[str, Any]], fewest: int, most: int, each: Resources) -> bool:
    """Whether, of Ray's reservations, one for `fewest` to `most` workers with so much each has no room.

    A training that takes what it gets (`fewest` below `most`) reserves nothing before there is room for the fewest.
    """
    states = [
        group["state"]
        for group in groups
        if fewest <= len(group["bundles"]) <= most
        and all(dict(bundle) == dict(each) for bundle in group["bundles"].values())
    ]
    return "PENDING" in states or (fewest < most and "CREATED" not in states)


def wait(pipeline: str, workers: int, each: Resources, free: Resources, total: Resources) -> dict[str, str]:
    """What a training waits for, in words: `wants`, `free`, `next`."""
    short = [name for name, amount in each.items() if total.get(name, 0.0) < workers * amount]
    return {
        "pipeline": pipeline,
        "wants": _wanted(workers, each),
        "free": ", ".join(f"{free.get(name, 0.0):g} of {total.get(name, 0.0):g} {name}" for name in each),
        "next": f"it begins when nodes with {' and '.join(short)} join the cluster"
        if short
        else "it begins when others end; `ray status` shows who holds what",
    }


def _wanted(workers: int, each: Resources) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''} with {_of(each)}" + (" each" if workers > 1 else "")


def _of(resources: Resources) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
