"""The function that Ray Train starts on each worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from millrace import redaction
from millrace.faults import fault_point
from millrace.loader import Cache
from millrace.logs import get_logger
from ray_jobs.cluster import object_store, pipeline_on_worker, scratch_dir
from ray_jobs.train.beats import Beat, Pulse
from ray_jobs.train.checkpoints.interval import FailureRate
from ray_jobs.train.loop import Place, fit
from ray_jobs.train.notice import Notice, noticed
from ray_jobs.train.problems import open_problem, publish
from ray_jobs.train.rank import Rank
from ray_jobs.train.request import TrainRequest
from ray_jobs.train.stopwatch import Stopwatch

_LAST_WORD_SECONDS = 5.0


@redaction.without_secrets()
def train_worker(config: dict[str, Any]) -> None:
    """One rank of a training run; `config` holds its `request`, the number of the `attempt`, and the `desk`.

    Without a desk nobody is told how it goes.
    """
    import ray.train
    from ray.train.torch import get_device

    redaction.install(streams=True)
    request: TrainRequest = config["request"]
    watch, attempt = Stopwatch(), config.get("attempt", 0)
    desk: Any = config.get("desk")
    context = ray.train.get_context()
    tells = desk is not None and context.get_world_rank() == 0
    notice = Notice()
    with telling(desk, watch, attempt, context, notice), noticed(notice):
        pipeline, store = pipeline_on_worker(request.settings, request.pipeline_name), object_store(request.settings)
        spec = pipeline.spec.training
        torch.set_num_threads(max(1, int(spec.cpus_per_worker)))
        opened = open_problem(request, pipeline, store)
        place = Place(
            store,
            request.checkpoint_prefix,
            report=(lambda metrics: desk.tell.remote(dict(metrics))) if tells else (lambda metrics: None),
            prove=request.prove,
            rate=FailureRate().seen(attempt, 0.0),
            cache=Cache(scratch_dir(request.settings, "shards"), int(spec.shard_cache_gb * 1e9)),
            notice=notice,
            ask=None if desk is None else _is_preempted,
            watch=watch,
        )
        rank = Rank.of(get_device())
        fitted = fit(pipeline, opened.problem, rank, place)
        if rank.is_first:
            publish(request, pipeline, opened, fitted)


def _is_preempted() -> bool:
    """Whether Ray knows that a node of this run goes away; all ranks must ask at the same time."""
    from ray.train import get_preemption_info

    return get_preemption_info() is not None


@contextmanager
def telling(desk: Any, watch: Stopwatch, attempt: int, context: Any, notice: Notice) -> Iterator[None]:
    """While the block runs, tell the desk twice a second how it goes, and at its end for sure.

    What it answers, that the attempt is called off, is a notice.
    """
    if desk is None:
        yield
        return
    import ray

    who = {"rank": context.get_world_rank(), "world_size": context.get_world_size()}
    node = ray.get_runtime_context().get_node_id()
    send = _Line(desk, notice).send
    pulse = Pulse(send, watch, attempt=attempt, node=node, pid=os.getpid(), **who)
    try:
        yield
    finally:
        ray.wait([desk.put.remote(pulse.close())], timeout=_LAST_WORD_SECONDS)


class _Line:
    """To the desk, without ever waiting for it: what it answered to one beat is looked at before the next."""

    def __init__(self, desk: Any, notice: Notice) -> None:
        self._desk, self._notice = desk, notice
        self._sent: Any = None

    def send(self, beat: Beat) -> None:
        import ray
        from ray.exceptions import RayError

        if self._sent is not None and ray.wait([self._sent], timeout=0)[0]:
            try:
                with fault_point("ray.beat"):
                    is_called_off = ray.get(self._sent)
            except RayError as error:
                # It may be moving to another node; it is told again.
                get_logger().debug("the desk did not take a beat", error=str(error))
            else:
                if is_called_off:
                    self._notice.give()
        self._sent = self._desk.put.remote(beat)
