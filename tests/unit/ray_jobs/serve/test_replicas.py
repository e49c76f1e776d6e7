"""How many replicas there are, as Serve's own long poll tells it, without a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.serve.replicas import ReplicaCounts, Siblings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Call:
    """What Ray gives for a call of an actor's coroutine."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def _on_completed(self, told: Callable[[Any], None]) -> None:
        self._task.add_done_callback(lambda done: None if done.cancelled() else told(done.result()))

    def __await__(self) -> Any:
        return self._task.__await__()


class Controller:
    """Serve's own host of long polls, and the details of a deployment, behind an actor's manners."""

    def __init__(self, deployment: Any) -> None:
        from ray.serve._private.long_poll import LongPollHost

        self.host = LongPollHost()
        self.deployment = deployment
        self.details: Any = None
        self.tasks: list[asyncio.Task[Any]] = []
        self.listen_for_change = SimpleNamespace(remote=lambda known: self._call(self.host.listen_for_change(known)))
        self.get_deployment_details = SimpleNamespace(remote=lambda app, name: self._call(self._details(app, name)))

    def runs(self, *names: str) -> None:
        from ray.serve._private.common import DeploymentTargetInfo
        from ray.serve._private.long_poll import LongPollNamespace

        found = DeploymentTargetInfo(is_available=True, running_replicas=list(names))  # type: ignore[arg-type]
        self.host.notify_changed({(LongPollNamespace.DEPLOYMENT_TARGETS, self.deployment): found})

    async def _details(self, app: str, name: str) -> Any:
        assert (app, name) == ("tiny", "model")
        if isinstance(self.details, Exception):
            raise self.details
        return self.details

    def _call(self, coroutine: Any) -> Call:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))
        return Call(self.tasks[-1])


def siblings() -> Siblings:
    from ray.serve._private.common import DeploymentID

    deployment = DeploymentID("model", "tiny")
    return Siblings(Controller(deployment), deployment)


def test_a_replica_is_told_how_many_run_at_once_and_after_each_change() -> None:
    told: list[int] = []

    async def story() -> None:
        known = siblings()
        controller = known.controller
        controller.runs("a")
        following = known.follow(told.append)
        for names in (("a", "b", "c"), ("a", "b", "c", "d"), ("c",), ()):
            await _settled()
            controller.runs(*names)
        await _settled()
        following.stop()
        for task in controller.tasks:
            task.cancel()

    asyncio.run(story())
    assert told == [1, 3, 4, 1, 1], "it is one itself"


def test_how_many_there_are_to_be_and_how_many_run() -> None:
    def replica(state: str) -> Any:
        return SimpleNamespace(state=SimpleNamespace(value=state))

    async def story() -> list[ReplicaCounts | None]:
        known = siblings()
        known.controller.details = SimpleNamespace(
            target_num_replicas=3, replicas=[replica("RUNNING"), replica("STARTING"), replica("RUNNING")]
        )
        found = [await known.counts()]
        known.controller.details = KeyError("model")
        return [*found, await known.counts()]

    assert asyncio.run(story()) == [ReplicaCounts(wanted=3, running=2), None]


def test_outside_a_cluster_nothing_is_known(caplog: pytest.LogCaptureFixture) -> None:
    assert Siblings.here() is None
    assert "divided as the spec says" in caplog.text


def test_serves_replica_states_are_as_we_read_them() -> None:
    from ray.serve._private.common import ReplicaState

    assert ReplicaState.RUNNING.value == "RUNNING"


async def _settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
