"""From the counters of replicas that come, go and start again to the load of all of them, second by second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from millrace.autoscaling.queueing import Service
from millrace.autoscaling.readings import Reading

Floats = NDArray[np.float64]

#: Seconds that are kept.
KEPT_SECONDS = 120
#: A replica that tells nothing for so long, while others do, no longer keeps their newest seconds from being used.
_SILENT_SECONDS = 5.0
#: Share of a thread's time from which its processor seconds say more than the handler's; below, they are housekeeping.
_CPU_SHARE = 0.3
_SERVICE_SECONDS = 60

_ARRIVALS, _ANSWERED, _BUSY, _SQUARES = range(4)


@dataclass(frozen=True, eq=False)
class History:
    """What all replicas together did in the seconds up to `end` (Unix seconds), oldest first.

    `arrivals`, `answered` (requests), `busy_seconds` and `busy_squares` are float64 [seconds], none below 0. `replicas`
    told their counters lately; `in_flight` requests and the longest `warm_up_seconds` are the newest that they told.
    """

    end: float
    arrivals: Floats
    answered: Floats
    busy_seconds: Floats
    busy_squares: Floats
    replicas: int
    in_flight: float
    warm_up_seconds: float

    def service(self, fewest_answered: float = 1.0) -> Service | None:
        """Seconds of a replica that a request takes, of the last minute; None where fewer than that were answered."""
        answered = float(self.answered[-_SERVICE_SECONDS:].sum())
        busy = float(self.busy_seconds[-_SERVICE_SECONDS:].sum())
        if answered < fewest_answered or busy <= 0:
            return None
        mean = busy / answered
        squares = float(self.busy_squares[-_SERVICE_SECONDS:].sum()) / answered
        return Service(mean, max(0.0, squares / mean**2 - 1.0))

    def utilisation(self, seconds: int) -> float:
        """Share of the replicas' last `seconds` that was spent on requests; what is not known counts as idle."""
        return float(self.busy_seconds[-seconds:].sum()) / max(1, seconds * self.replicas)


@dataclass
class Demand:
    """Adds up what replicas tell.

    A replica's first reading is where its counting begins, as nobody knows when it was that its counter grew. What it
    counted between two readings is spread evenly over the time between them. A counter that falls was started anew, and
    what it shows has come since. What a replica that stops counted after its last reading is lost, about a second's.
    """

    _last: dict[str, Reading] = field(default_factory=dict, init=False)
    _seconds: dict[int, Floats] = field(default_factory=dict, init=False)
    _first: float = field(default=math.inf, init=False)

    def observe(self, readings: Mapping[str, Sequence[Reading]]) -> None:
        """Take the new readings of all replicas that run, by replica, oldest first; none where nothing is new."""
        for name in self._last.keys() - readings.keys():
            del self._last[name]
        for name, told in readings.items():
            for reading in told:
                self._take(name, reading)
        if self._last:
            oldest = math.floor(self._newest) - KEPT_SECONDS
            self._seconds = {second: sums for second, sums in self._seconds.items() if second >= oldest}

    def history(self) -> History | None:
        """The whole seconds that all replicas have told of; None before there is one."""
        if not self._last:
            return None
        newest = self._newest
        live = [reading for reading in self._last.values() if reading.time >= newest - _SILENT_SECONDS]
        end = math.floor(min(reading.time for reading in live))
        start = max(math.ceil(self._first), end - KEPT_SECONDS)
        if end <= start:
            return None
        nothing = np.zeros(4)
        sums = np.array([self._seconds.get(second, nothing) for second in range(start, end)])
        return History(
            end=float(end),
            arrivals=sums[:, _ARRIVALS],
            answered=sums[:, _ANSWERED],
            busy_seconds=sums[:, _BUSY],
            busy_squares=sums[:, _SQUARES],
            replicas=len(live),
            in_flight=sum(reading.in_flight for reading in live),
            warm_up_seconds=max(reading.warm_up_seconds for reading in live),
        )

    @property
    def _newest(self) -> float:
        return max(reading.time for reading in self._last.values())

    def _take(self, name: str, reading: Reading) -> None:
        before = self._last.get(name)
        if before is None:
            self._first = min(self._first, reading.time)
        elif reading.time > before.time:
            self._spread(before.time, reading.time, _grown(before, reading))
        else:
            return
        self._last[name] = reading

    def _spread(self, start: float, end: float, grown: Floats) -> None:
        per_second = grown / (end - start)
        for second in range(math.floor(max(start, end - KEPT_SECONDS)), math.ceil(end)):
            part = min(end, second + 1) - max(start, second)
            known = self._seconds.get(second)
            self._seconds[second] = part * per_second if known is None else known + part * per_second


def _grown(before: Reading, after: Reading) -> Floats:
    """What came between two readings, [4]."""
    busy = _increase(before.busy_seconds_total, after.busy_seconds_total)
    squares = _increase(before.busy_squares_total, after.busy_squares_total)
    # What lies around the handler (the HTTP server, the reply) fills a thread too. A thread that is busy by its
    # processor time works on requests, and longer than the handler knows.
    cpu = _increase(before.cpu_seconds_total, after.cpu_seconds_total)
    if cpu > busy and cpu >= _CPU_SHARE * (after.time - before.time):
        squares *= (cpu / busy) ** 2 if busy > 0 else 1.0
        busy = cpu
    return np.array(
        [
            _increase(before.arrivals_total, after.arrivals_total),
            _increase(before.answered_total, after.answered_total),
            busy,
            squares,
        ]
    )


def _increase(before: float, after: float) -> float:
    return after - before if after >= before else after
