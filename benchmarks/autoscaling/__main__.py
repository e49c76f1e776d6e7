"""`make bench-autoscaling`: our policy beside Ray Serve's, a fixed number and an oracle, on recorded and other load.

Every policy gets the same arrivals and the same service times, and replicas that come up as slowly. A replica costs
from the decision to start it until it has answered its last request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.autoscaling import service_times
from benchmarks.autoscaling.policies import Fixed, Millrace, Oracle, Ray
from benchmarks.autoscaling.simulation import Outcome, Policy, simulate
from benchmarks.autoscaling.traces import TRACES, arrivals
from benchmarks.record import write
from millrace.autoscaling import Service, fewest_servers

Floats = NDArray[np.float64]

_SEEDS = (2013, 2014, 2015)
#: A model that takes 20 ms a request on average: the measured times, stretched.
MEAN_SECONDS = 0.02
COOL_DOWN_SECONDS = 60.0
WARM_UPS = (8.0, 30.0)
MOST_REPLICAS = 40


def compare(rates: Floats, shape: Floats, target_seconds: float, warm_up_seconds: float) -> dict[str, Any]:
    """The figures of all policies on one load, of all seeds together; `shape` are service times (seconds)."""
    service = Service(float(shape.mean()), float(shape.var() / shape.mean() ** 2))
    first, highest = (
        fewest_servers(float(rate), service, target_seconds, MOST_REPLICAS) for rate in (rates[0], rates.max())
    )
    policies: dict[str, tuple[int, Callable[[], Policy]]] = {
        "millrace": (first, lambda: Millrace(target_seconds, COOL_DOWN_SECONDS)),
        "ray, defaults": (first, Ray),
        "ray, tuned": (
            first,
            lambda: Ray(
                target_ongoing=1.0, look_back=5.0, metrics_interval=1.0, up_delay=0.0, down_delay=COOL_DOWN_SECONDS
            ),
        ),
        "fixed at the peak's need": (highest, lambda: Fixed(highest)),
        "oracle": (first, lambda: Oracle(rates, service, target_seconds, warm_up_seconds)),
    }
    outcomes: dict[str, list[Outcome]] = {name: [] for name in policies}
    for seed in _SEEDS:
        rng = np.random.default_rng(seed)
        moments = arrivals(rates, rng)
        services = rng.choice(shape, len(moments))
        for name, (begin, make) in policies.items():
            warm_up = _warm_up(warm_up_seconds, seed)
            outcomes[name].append(simulate(moments, services, make(), warm_up=warm_up, first=begin, most=MOST_REPLICAS))
    return {name: _figures(found, target_seconds) for name, found in outcomes.items()}


def _warm_up(mean_seconds: float, seed: int) -> Callable[[], float]:
    """Draws of how long a replica takes to come up, by a tenth or two more or less than the mean."""
    rng = np.random.default_rng(seed)
    return lambda: mean_seconds * float(rng.lognormal(0.0, 0.15))


def _figures(outcomes: Sequence[Outcome], target_seconds: float) -> dict[str, Any]:
    """Of all requests together; costs and changes are those of one play, on average."""
    latencies = np.concatenate([outcome.latencies for outcome in outcomes])
    p50, p99 = np.quantile(latencies, [0.5, 0.99])
    return {
        "requests": len(latencies),
        "replica_seconds": round(sum(outcome.replica_seconds for outcome in outcomes) / len(outcomes)),
        "p50_ms": round(1000 * float(p50), 1),
        "p99_ms": round(1000 * float(p99), 1),
        "within_target_share": round(float((latencies <= target_seconds).mean()), 4),
        "changes": round(sum(outcome.changes for outcome in outcomes) / len(outcomes)),
        "most_replicas": max(outcome.most_replicas for outcome in outcomes),
    }


def target_of(shape: Floats) -> float:
    """A latency target (seconds) that can be held: twice what 99 of 100 requests take that never wait."""
    return round(2 * float(np.quantile(shape, 0.99)), 3)


def main() -> None:
    """Simulate every load under every policy; print and write the figures."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    console = Console(stderr=True)
    measured = service_times.measure()
    shape = measured * (MEAN_SECONDS / measured.mean())
    target = target_of(shape)
    found: dict[str, Any] = {}
    began = time.perf_counter()
    for warm_up in WARM_UPS:
        for name, rates in TRACES.items():
            label = f"{name}, warm-up {warm_up:g} s"
            console.print(label, highlight=False)
            found[label] = compare(rates(), shape, target, warm_up)
    for label, policies in found.items():
        table = Table("policy", "replica-s", "p50 ms", "p99 ms", "in target", "changes", "most", title=label)
        for name, row in policies.items():
            numbers = (f"{row['replica_seconds']:,}", f"{row['p50_ms']:.0f}", f"{row['p99_ms']:,.0f}")
            rest = (f"{row['within_target_share']:.2%}", str(row["changes"]), str(row["most_replicas"]))
            table.add_row(name, *numbers, *rest)
        Console().print(table)
    path = write(
        "autoscaling",
        {
            "seeds": list(_SEEDS),
            "seconds": round(time.perf_counter() - began, 1),
            "measured_service_ms": {
                "mean": round(1000 * float(measured.mean()), 4),
                "p99": round(1000 * float(np.quantile(measured, 0.99)), 4),
                "squared_variation": round(float(measured.var() / measured.mean() ** 2), 3),
            },
            "stretched_to_mean_ms": 1000 * MEAN_SECONDS,
            "latency_target_ms": round(1000 * target, 1),
            "cool_down_seconds": COOL_DOWN_SECONDS,
            "loads": found,
        },
    )
    Console().print(f"written to {path}")


if __name__ == "__main__":
    main()
