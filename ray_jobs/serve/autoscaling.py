"""The autoscaling policy of a deployment in Ray Serve 2.60, around `millrace.autoscaling.Autoscaler`.

What Serve does, read from its source and needed to understand this:

- A policy that is a class is built once in the controller and called as `instance(context)` with each turn of the
  control loop (0.1 s). The class travels by value (cloudpickle), what its module imports by name: the controller must
  have `millrace`, and a controller that runs has the `millrace` that it first imported.
- `context.raw_metrics` is `{key: {ReplicaID: [point, ...]}}`, points with `timestamp` (of the replica's clock) and
  `value`, all that the replica recorded in its last `look_back_period_s`; running replicas only. The keys are those of
  the replica's `record_autoscaling_stats()` and, behind HAProxy, `running_requests`. `aggregated_metrics` is the mean
  over that time, which says nothing of a counter; so only the raw points are used.
- A replica records every min(0.2 look-back, `metrics_interval_s`) seconds and sends every `metrics_interval_s`; the
  first time as soon as it is initialised, before anything is recorded. So its first numbers come one interval later.
  Serve warns that `metrics_interval_s` gives way to `RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S` and
  `RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S`; in 2.60 nothing reads these two.
- After the policy, factors, `upscale_delay_s`, `downscale_delay_s` and the bounds are applied to what it says. The
  delays are 0 here, as the policy keeps its own time.
- `policy_state` lives in the controller's memory like the instance, and is dropped with it at each deploy that changes
  something. It would carry nothing over, so the state is kept in the instance, which goes on from the raw points.
- An exception of a policy ends the turn of the loop for all applications. None leaves here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from millrace.autoscaling import Autoscaler, Reading
from millrace.autoscaling.readings import KEYS
from millrace.spec import ServingSpec

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

_log = logging.getLogger("ray.serve")

_POLICY = "ray_jobs.serve.autoscaling:ReplicasPolicy"
#: Seconds between two reports of a replica, so after its start too; the first decision is possible after three of them.
REPORT_SECONDS = 1.0
#: Seconds that a report holds, from which a new policy goes on.
LOOK_BACK_SECONDS = 30.0
#: Nothing is new more often.
_DECIDE_SECONDS = 0.5


class ReplicasPolicy:
    """As many replicas as arrivals and service time ask for; see `Autoscaler` for the arguments."""

    def __init__(self, latency_target_seconds: float | None, cool_down_seconds: float) -> None:
        self._arguments = (latency_target_seconds, cool_down_seconds)
        self._autoscaler = Autoscaler(*self._arguments)
        self._newest: dict[str, float] = {}
        self._decided_at = 0.0

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas, and no state."""
        now = context.current_time or 0.0
        if 0 <= now - self._decided_at < _DECIDE_SECONDS:
            return context.target_num_replicas, {}
        self._decided_at = now
        try:
            return self._decide(context, now), {}
        except Exception:  # noqa: BLE001 - whatever went wrong, the controller's loop goes on
            _log.exception("autoscaling of %s: the number stays as it is", context.app_name)
            self._autoscaler, self._newest = Autoscaler(*self._arguments), {}
            return context.target_num_replicas, {}

    def _decide(self, context: AutoscalingContext, now: float) -> int:
        wanted = context.target_num_replicas
        decision = self._autoscaler.decide(
            self._readings(context),
            now=now,
            running=context.current_num_replicas,
            wanted=wanted,
            fewest=context.capacity_adjusted_min_replicas,
            most=context.capacity_adjusted_max_replicas,
        )
        if decision.replicas != wanted:
            _log.info(
                "autoscaling of %s: from %d to %d replicas: %s",
                context.app_name,
                wanted,
                decision.replicas,
                decision.reason,
            )
        return decision.replicas

    def _readings(self, context: AutoscalingContext) -> dict[str, list[Reading]]:
        """By each running replica, what it recorded since the last call."""
        metrics = context.raw_metrics or {}
        found = {}
        for replica in context.running_replicas:
            name = replica.unique_id
            after = self._newest.get(name, 0.0)
            found[name] = new_readings({key: metrics.get(key, {}).get(replica, ()) for key in KEYS}, after)
            self._newest[name] = max([after, *(reading.time for reading in found[name])])
        self._newest = {name: self._newest[name] for name in found}
        return found


def new_readings(series: Mapping[str, Sequence[Any]], after: float) -> list[Reading]:
    """The readings in a replica's points that are younger than `after`, oldest first; damaged ones are left out."""
    moments: dict[float, dict[str, float]] = {}
    for key, points in series.items():
        for point in points:
            if point.timestamp > after:
                moments.setdefault(point.timestamp, {})[key] = point.value
    readings = (Reading.of(moment, moments[moment]) for moment in sorted(moments))
    return [reading for reading in readings if reading is not None]


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a deployment's autoscaling is set to; `arguments`, as JSON, are those that the policy is built with."""

    min_replicas: int
    max_replicas: int
    arguments: Mapping[str, float | None]

    @classmethod
    def of(cls, spec: ServingSpec) -> Scaling | None:
        """As the spec wants it; None where the number of replicas is fixed."""
        if (wanted := spec.autoscaling) is None:
            return None
        target = None if spec.latency_target_ms is None else spec.latency_target_ms / 1000
        arguments = {"latency_target_seconds": target, "cool_down_seconds": wanted.cool_down_seconds}
        return cls(wanted.min_replicas, wanted.max_replicas, arguments)

    @classmethod
    def of_deployment(cls, config: Mapping[str, Any]) -> Scaling | None:
        """As Serve's details of a deployment have it; None where the number of replicas is fixed."""
        if (known := config.get("autoscaling_config")) is None:
            return None
        return cls(known["min_replicas"], known["max_replicas"], known["policy"]["policy_kwargs"])


def autoscaling_config(spec: ServingSpec) -> AutoscalingConfig | None:
    """Serve's configuration for a pipeline; None where the number of replicas is fixed."""
    if (scaling := Scaling.of(spec)) is None:
        return None
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*metrics_interval_s.*", category=DeprecationWarning)
        policy: Any = AutoscalingPolicy(policy_function=_POLICY, policy_kwargs=scaling.arguments)  # type: ignore[no-untyped-call]
        return AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            metrics_interval_s=REPORT_SECONDS,
            look_back_period_s=LOOK_BACK_SECONDS,
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            policy=policy,
        )
