"""How long requests wait for one of several servers, and how few servers keep that short.

The queue is M/G/n: arrivals at random, any service times, and whoever comes goes to a free server. Its exact wait is
known for exponential service times only (Erlang 1917): somebody waits with probability C (Erlang's C formula), and who
waits does so for an exponential time with mean 1 / (n / s - rate). For others the mean wait is (1 + v) / 2 times as
long, where v is the squared coefficient of variation of the service times (Lee & Longton 1959), and who waits still
does so for about an exponential time (heavy traffic; Whitt 1993, "Approximations for the GI/G/m queue"). Real requests
go to the replica with the fewest connections and stay there, which is a little worse than one common queue.

How few servers are enough grows as the load plus a margin of the order of its square root (Halfin & Whitt 1981), so
large deployments run at a higher utilisation than small ones; a fixed utilisation would be wrong for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

#: Share of the answers that may take longer than the target.
LATE_SHARE = 0.01
#: The most that servers may be used in the long run, whatever the formula says: it knows no bursts.
MOST_USED = 0.85

_QUANTILES = np.array([NormalDist().inv_cdf((place + 0.5) / 200) for place in range(200)])


@dataclass(frozen=True, slots=True)
class Service:
    """Seconds of one server that a request takes: their mean, and their variance over the mean squared."""

    mean_seconds: float
    squared_variation: float = 1.0


def erlang_c(servers: int, load: float) -> float:
    """Probability that whoever comes must wait; `load` is rate times mean service time, below `servers`."""
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    used = load / servers
    return blocked / (1 - used * (1 - blocked))


def mean_wait(servers: int, rate: float, service: Service) -> float:
    """Mean seconds before service begins; infinite where the servers are too few."""
    if rate * service.mean_seconds >= servers:
        return math.inf
    return erlang_c(servers, rate * service.mean_seconds) / _speed(servers, rate, service)


def late_share(servers: int, rate: float, service: Service, target_seconds: float) -> float:
    """Share of the answers that take longer than `target_seconds`, wait and service; 1 where servers are too few.

    Service times are taken as lognormal with their mean and variation.
    """
    if rate * service.mean_seconds >= servers:
        return 1.0
    spread = math.sqrt(math.log1p(service.squared_variation))
    times = service.mean_seconds * np.exp(spread * _QUANTILES - spread**2 / 2)
    left = target_seconds - times
    waits = erlang_c(servers, rate * service.mean_seconds)
    late = np.where(left < 0, 1.0, waits * np.exp(-_speed(servers, rate, service) * np.maximum(left, 0.0)))
    return float(late.mean())


def fewest_servers(rate: float, service: Service, target_seconds: float | None, most: int) -> int:
    """The fewest servers, from 1 to `most`, that are enough for `rate` requests a second.

    Enough is: at most one answer in a hundred takes longer than the target. Without a target, or where even a request
    that never waits misses it too often, it is: requests wait no longer on average than they take. Both with servers
    that are used for at most 85 % of the time.
    """
    load = rate * service.mean_seconds
    if not load < most * MOST_USED:
        return most
    enough = _keeps_target(rate, service, target_seconds)
    for servers in range(max(1, math.ceil(load / MOST_USED)), most):
        if enough(servers):
            return servers
    return most


def _keeps_target(rate: float, service: Service, target_seconds: float | None) -> Callable[[int], bool]:
    if target_seconds is not None and late_share(1, 0.0, service, target_seconds) <= LATE_SHARE:
        return lambda servers: late_share(servers, rate, service, target_seconds) <= LATE_SHARE
    return lambda servers: mean_wait(servers, rate, service) <= service.mean_seconds


def _speed(servers: int, rate: float, service: Service) -> float:
    """By how much a second the logarithm of the share that still waits falls."""
    return 2 * (servers / service.mean_seconds - rate) / (1 + service.squared_variation)
