"""How many replicas of its deployment there are, for a replica: it has its share of what a customer may ask.

Ray Serve 2.60 has no public way for a replica to learn it: `ReplicaContext.world_size` is the number in the
configuration, which autoscaling does not touch. So this listens where Serve's routers do: the controller holds a call
open and answers it when the set of running replicas has changed. It costs nothing in between, and a replica hears of a
change as soon as HAProxy does. While the controller is away the last number holds; Ray repeats the call to the next
controller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from millrace.faults import fault_point

_log = logging.getLogger(__name__)

_ASK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ReplicaCounts:
    """How many replicas there are to be, and how many answer."""

    wanted: int
    running: int


@dataclass(frozen=True)
class Siblings:
    """The replicas of the deployment `deployment` (Serve's `DeploymentID`), as its `controller` knows them."""

    controller: Any
    deployment: Any

    @classmethod
    def here(cls) -> Siblings | None:
        """Those of the replica that this process is; None, with a line in the log, where Serve does not say."""
        try:
            import ray
            from ray import serve
            from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

            deployment = serve.get_replica_context().replica_id.deployment_id
            return cls(ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE), deployment)
        except Exception:  # noqa: BLE001 - another Ray, most likely: requests are answered all the same
            _log.exception("how many replicas there are is not known: limits are divided as the spec says")
            return None

    def follow(self, told: Callable[[int], None]) -> Any:
        """Have `told` called in this event loop with the number that runs, soon and after each change, for as long as
        what this returns is kept; it may name a number twice."""
        try:
            from ray.serve._private.common import DeploymentTargetInfo
            from ray.serve._private.long_poll import LongPollClient, LongPollNamespace

            def changed(found: DeploymentTargetInfo) -> None:
                # None runs: this one is being started, or the deployment is going.
                told(max(1, len(found.running_replicas)))

            key: Any = (LongPollNamespace.DEPLOYMENT_TARGETS, self.deployment)
            return LongPollClient(
                self.controller,
                {key: changed},
                call_in_event_loop=asyncio.get_running_loop(),
                client_id=f"{type(self).__name__}:{self.deployment}",
            )
        except Exception:  # noqa: BLE001 - as above
            _log.exception("how many replicas there are is not known: limits are divided as the spec says")
            return None

    async def counts(self) -> ReplicaCounts | None:
        """As the controller knows them now; None when it does not answer."""
        try:
            with fault_point("serve.count"):
                asked = self.controller.get_deployment_details.remote(self.deployment.app_name, self.deployment.name)
                async with asyncio.timeout(_ASK_SECONDS):
                    found = await asked
            running = sum(str(replica.state.value) == "RUNNING" for replica in found.replicas)
            return ReplicaCounts(found.target_num_replicas, running)
        except Exception:  # noqa: BLE001 - busy or away: who asks gets the other figures
            _log.warning("the controller did not say how many replicas there are", exc_info=True)
            return None
