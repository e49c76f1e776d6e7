"""The queue before a pipeline's replicas, at the ingress: how many requests a replica gets, how long others wait.

A request that waits at the ingress costs a replica nothing, and neither does one that is refused there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from millrace.settings import Settings
from millrace.spec import ServingSpec
from millrace.storage import write_atomically

#: Seconds that a request waits where the spec has no latency target: longer, and its caller has most likely gone.
PATIENCE_SECONDS = 30.0
#: Requests that a replica gets at once where there is a target: enough for its batches, and soon worked off.
_FEW = 32


@dataclass(frozen=True, slots=True)
class IngressQueue:
    """A replica gets `concurrent` requests at once; the others wait `seconds` for their turn, and are refused then."""

    concurrent: int
    seconds: float

    @classmethod
    def of(cls, spec: ServingSpec) -> Self:
        """As the spec asks for: with a latency target, half of it is for the wait here and half for the replica."""
        if spec.latency_target_ms is None:
            return cls(spec.max_ongoing_requests, PATIENCE_SECONDS)
        return cls(min(spec.max_ongoing_requests, _FEW), spec.latency_target_ms / 2000)

    def write(self, settings: Settings, pipeline_name: str) -> None:
        """Leave it where the ingress finds it when it next hears of replicas."""
        write_atomically(queues_folder(settings) / f"{pipeline_name}.json", json.dumps(asdict(self)).encode())


def queues_folder(settings: Settings) -> Path:
    """Folder of all pipelines' queues."""
    return settings.state / "ingress"
