"""What decides in the simulation: ours and Ray's, by their own code, and two that know more than anybody can."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.autoscaling.simulation import SEATS, Reports, View
from millrace.autoscaling import Service, fewest_servers
from millrace.autoscaling.readings import KEYS
from ray_jobs.serve.autoscaling import LOOK_BACK_SECONDS, REPORT_SECONDS, ReplicasPolicy

Floats = NDArray[np.float64]

#: The simulation's time 0, as Unix time.
_EPOCH = 1_700_000_000.0


@dataclass(frozen=True)
class _Id:
    unique_id: str


class _Point(NamedTuple):
    timestamp: float
    value: float


class Millrace:
    """The policy class that Ray Serve calls, shown what Ray Serve would show it."""

    def __init__(self, target_seconds: float | None, cool_down_seconds: float) -> None:
        self._policy = ReplicasPolicy(target_seconds, cool_down_seconds)
        self._reports = Reports(REPORT_SECONDS, REPORT_SECONDS, LOOK_BACK_SECONDS)

    def __call__(self, view: View) -> int:
        metrics: dict[str, dict[_Id, list[Any]]] = {key: {} for key in KEYS}
        for name, readings in self._reports.at(view).items():
            for key in KEYS:
                metrics[key][_Id(name)] = [_Point(_EPOCH + each.time, getattr(each, key)) for each in readings]
        context: Any = SimpleNamespace(
            app_name="simulated",
            current_time=_EPOCH + view.now,
            running_replicas=[_Id(replica.name) for replica in view.running],
            current_num_replicas=len(view.running),
            target_num_replicas=view.wanted,
            capacity_adjusted_min_replicas=view.fewest,
            capacity_adjusted_max_replicas=view.most,
            raw_metrics=metrics,
        )
        return self._policy(context)[0]


@dataclass
class Ray:
    """Ray Serve's own policy by ongoing requests, with its own functions; the defaults are Ray's."""

    target_ongoing: float = 2.0
    look_back: float = 30.0
    metrics_interval: float = 10.0
    up_delay: float = 30.0
    down_delay: float = 600.0
    _state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ray.serve.config import AutoscalingConfig

        record = min(0.2 * self.look_back, self.metrics_interval)
        self._reports = Reports(record, self.metrics_interval, self.look_back)
        self._config = AutoscalingConfig(
            target_ongoing_requests=self.target_ongoing,
            upscale_delay_s=self.up_delay,
            downscale_delay_s=self.down_delay,
        )

    def __call__(self, view: View) -> int:
        from ray.serve import autoscaling_policy as ray_policy

        context: Any = SimpleNamespace(
            current_num_replicas=len(view.running),
            target_num_replicas=view.wanted,
            total_num_requests=self._ongoing(view),
            config=self._config,
        )
        desired, _ = ray_policy._core_replica_queue_length_policy(context)
        whole = ray_policy._apply_scaling_factors(desired, len(view.running), self._config)
        decided, self._state = ray_policy._apply_delay_logic(
            max(0, whole), view.wanted, self._config, self._state, _now=view.now
        )
        return max(view.fewest, min(view.most, int(decided)))

    def _ongoing(self, view: View) -> float:
        """As `DeploymentAutoscalingState` merges it, with the simulation's clock."""
        from ray.serve._private.common import TimeStampedValue
        from ray.serve._private.metrics_utils import aggregate_timeseries, merge_instantaneous_total
        from ray.serve.config import AggregationFunction

        series = [
            [TimeStampedValue(reading.time, min(SEATS, reading.in_flight)) for reading in readings]
            for readings in self._reports.at(view).values()
            if readings
        ]
        if not series:
            return 0.0
        merged = merge_instantaneous_total(series)
        if not merged:  # it keeps changes only, so nothing where nothing was ever under way
            return 0.0
        begin: float | None = None
        if len(series) > 1 and (aligned := max(each[0].timestamp for each in series)) <= merged[-1].timestamp:
            begin = max(aligned, merged[0].timestamp)
        last = max(1e-3, view.now - merged[-1].timestamp)
        value = aggregate_timeseries(merged, AggregationFunction.MEAN, last_window_s=last, window_start=begin)
        return float(value or 0.0)


@dataclass
class Fixed:
    """Always the same number."""

    replicas: int

    def __call__(self, view: View) -> int:
        return self.replicas


@dataclass
class Oracle:
    """Knows what will be asked, starts replicas just in time and stops them at once."""

    rates: Floats
    service: Service
    target_seconds: float | None
    warm_up_seconds: float

    def __call__(self, view: View) -> int:
        begin, end = int(view.now), int(view.now + self.warm_up_seconds) + 2
        most = float(self.rates[begin:end].max(initial=0.0))
        return max(view.fewest, fewest_servers(most, self.service, self.target_seconds, view.most))
