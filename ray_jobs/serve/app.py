"""The Ray Serve deployment around `PredictionService`: the only ingress, one hop, one process per replica.

What a replica serves, a plan of one version or several, is the deployment's `user_config`, which the Serve controller
keeps: a replica that is started again after a crash gets it before it takes requests. A change of it does not come
that way, see docs/decisions/0003-serving.md: `prepare` and `activate` bring it to the running replicas first.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from millrace import redaction
from millrace.errors import FencedError, MillraceError
from millrace.pipeline import load_pipeline
from millrace.signing import Keys
from millrace.storage import ObjectStore
from ray_jobs.serve.door import Door
from ray_jobs.serve.load import Counted, ServiceLoad
from ray_jobs.serve.plan import TrafficPlan
from ray_jobs.serve.replicas import ReplicaCounts, Siblings
from ray_jobs.serve.service import PredictionService
from ray_jobs.serve.tracing import Traces

_log = logging.getLogger(__name__)


class Replica:
    """One serving process of a pipeline."""

    _siblings: Siblings | None = None
    _following: Any = None

    def __init__(
        self,
        pipeline_name: str,
        pipelines_dir: str,
        objects_url: str,
        signing_key: str,
        log_folder: str,
        metrics_folder: str,
        door: Door,
        code: str,
        collector: str | None,
    ) -> None:
        self._load = ServiceLoad()
        redaction.install(streams=True)
        _listen_on_node_address()
        pipeline = load_pipeline(pipeline_name, Path(pipelines_dir))
        store = ObjectStore(objects_url, Keys(Path(signing_key)))
        # Serve's own HTTP layer sets the response's x-request-id.
        self._service = PredictionService(
            pipeline,
            store,
            Path(log_folder),
            door=door,
            # Which processes live can be told on one host only.
            metrics_folder=Path(metrics_folder) / socket.gethostname(),
            traces=Traces(Path(log_folder), pipeline_name, collector),
            echo_request_id=False,
            code=code,
            worked=self._load.worked,
            count_replicas=self._count_replicas,
        )

    def __serve_build_asgi_app__(self) -> Counted:
        return Counted(self._service, self._load)

    async def reconfigure(self, user_config: Mapping[str, str]) -> None:
        """Called by Serve before a new replica takes requests, and after every change of `user_config`."""
        plan = TrafficPlan.from_config(user_config)
        if self._siblings is None and (siblings := Siblings.here()) is not None:
            self._siblings, self._following = siblings, siblings.follow(self._divide)
        try:
            await self._service.load(plan)
        except FencedError as error:
            # A zombie wrote it. Raised on, it would stop this replica; the reconciler puts the configuration right.
            _log.warning("%s", error)
        except MillraceError as error:
            if plan.is_alone:
                raise
            # Raised on, no replica could start because of a version that answers a few; the primary's package is sound.
            _log.error("version %s answers alone: %s", plan.primary.version, error)
            await self._service.load(TrafficPlan.alone(plan.primary))
        self._load.warmed()

    async def prepare(self, plan: Mapping[str, str]) -> MillraceError | None:
        """Load what `plan` needs beside what answers; the error, if it cannot be served."""
        try:
            await self._service.prepare(TrafficPlan.from_config(plan))
        except MillraceError as error:
            return error
        return None

    async def activate(self, plan: Mapping[str, str]) -> MillraceError | None:
        """Serve by `plan` from now on; the error, if it cannot be served."""
        try:
            await self._service.load(TrafficPlan.from_config(plan))
        except MillraceError as error:
            return error
        return None

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve each second where the number of replicas follows the load; a coroutine, so that it runs in
        the thread that serves.
        """
        return self._load.as_metrics()

    def _divide(self, replicas: int) -> None:
        self._load.replicas = max(1, replicas)
        self._service.divide(replicas)

    async def _count_replicas(self) -> ReplicaCounts | None:
        return None if self._siblings is None else await self._siblings.counts()

    def __del__(self) -> None:
        # Serve calls this once the replica has drained.
        if service := getattr(self, "_service", None):
            service.close()


def _listen_on_node_address() -> None:
    """Have Serve bind this replica's gRPC port, which it opens after this, to the node's own address only.

    What comes in there is unpickled. It takes the token, but Serve binds it to all interfaces and has no setting for
    it; whoever asks uses the node's address. On the embedded stack that is loopback.
    """
    import ray
    from ray.serve._private import replica

    module: Any = replica
    host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    bind = module.add_port_to_grpc_server

    def bind_to_node(server: Any, address: str) -> Any:
        return bind(server, f"[{host}]:0" if ":" in host else f"{host}:0")

    module.add_port_to_grpc_server = bind_to_node
