"""The decision: as many replicas as what is asked at the end of a warm-up will need."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from millrace.autoscaling.demand import Demand, History
from millrace.autoscaling.forecast import Forecast, LineForecast
from millrace.autoscaling.queueing import Service, fewest_servers
from millrace.autoscaling.readings import Reading
from millrace.autoscaling.warm_up import WarmUp

#: Seconds after which counters are no longer news; the clocks of the replicas' hosts must agree better than that.
_STALE_SECONDS = 10.0
#: A lower number must be enough for this much more than is asked, so that it is not taken back by the next fluctuation.
_MARGIN = 1.1
#: Replicas that are used for more than this, for so many seconds, hide how much more is asked.
_SATURATED, _SATURATED_SECONDS = 0.95, 3
#: Answers that a known service time is replaced by.
_FEWEST_ANSWERED = 10.0
#: Requests in flight at each replica that are no backlog.
_IN_WORK = 2


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """How many replicas there are to be, and why."""

    replicas: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Need:
    """How many replicas are needed at once, how many are enough to go down to, and a sentence about it."""

    up: int
    down: int
    told: str


class Autoscaler:
    """Decides again and again for one deployment. It keeps what it has seen in memory; one that is made anew goes on
    from the newest readings, and takes no replica away before it has watched for a whole cool-down.

    Args:
        latency_target_seconds: what 99 of 100 answers should take at the most; None: see `fewest_servers`.
        cool_down_seconds: for so long a lower number must have been enough before it is gone down to.
        forecast: what looks ahead; none: `LineForecast`.
    """

    def __init__(
        self, latency_target_seconds: float | None, cool_down_seconds: float, forecast: Forecast | None = None
    ) -> None:
        self._target_seconds = latency_target_seconds
        self._cool_down = cool_down_seconds
        self._forecast = forecast or LineForecast()
        self._fallback = LineForecast()
        self._demand = Demand()
        self._warm_up = WarmUp()
        self._service: Service | None = None
        self._watch = _Watch()
        self._running, self._running_since = 0, -math.inf

    def decide(
        self,
        readings: Mapping[str, Sequence[Reading]],
        *,
        now: float,
        running: int,
        wanted: int,
        fewest: int,
        most: int,
    ) -> ScalingDecision:
        """How many replicas there are to be, from `fewest` to `most`.

        Args:
            readings: by each replica that runs, what it told since the last call, oldest first; maybe nothing.
            now: Unix time; it should not go back, and the watch begins anew where it does.
            running: replicas that answer.
            wanted: what was decided last.
        """
        self._warm_up.observe(now, running, wanted)
        if running != self._running:
            self._running, self._running_since = running, now
        self._demand.observe(readings)
        need = self._need(now, running, most)
        enough = self._watch.most_needed(now, self._cool_down, wanted if need is None else need.down)
        if need is None:
            return ScalingDecision(_within(wanted, fewest, most), "nothing is known of the newest seconds")
        if need.up > wanted:
            return ScalingDecision(_within(need.up, fewest, most), need.told)
        if enough is not None and enough < wanted:
            told = f"{enough} were enough for {self._cool_down:g} s; {need.told}"
            return ScalingDecision(_within(enough, fewest, most), told)
        return ScalingDecision(_within(wanted, fewest, most), need.told)

    def _need(self, now: float, running: int, most: int) -> _Need | None:
        history = self._demand.history()
        if history is None or not abs(now - history.end) <= _STALE_SECONDS:
            return None
        self._service = history.service(_FEWEST_ANSWERED if self._service else 1.0) or self._service
        warm_up = self._warm_up.seconds(history.warm_up_seconds)
        horizon = max(0.0, now - history.end) + warm_up
        rate = self._rate(history, horizon)
        if self._service is None:
            # Nothing came, or so little that it is not known how long it takes: that is no reason for more.
            idle = float(history.arrivals.sum()) == 0
            return _Need(0, 0, "nothing is asked") if idle else None
        # What waits beyond what is in work is to be done within the horizon too.
        backlog = max(0.0, history.in_flight - _IN_WORK * running)
        asked = rate + backlog / horizon if horizon > 0 else rate
        up = fewest_servers(asked, self._service, self._target_seconds, most)
        down = fewest_servers(_MARGIN * asked, self._service, self._target_seconds, most)
        told = (
            f"{rate:.1f} requests/s expected in {horizon:.0f} s, {1000 * self._service.mean_seconds:.2g} ms each, "
            f"{backlog:.0f} behind: {up} needed"
        )
        settled = not 0 <= now - self._running_since < warm_up
        if settled and history.utilisation(_SATURATED_SECONDS) >= _SATURATED:
            # The counters show what was let in, not what waits outside. Doubling finds the true need in a few steps;
            # replicas that came up just now get time to work off what had waited.
            up, down = max(up, 2 * running), max(down, 2 * running)
            told = f"the {running} that run are used up; {told}"
        return _Need(up, down, told)

    def _rate(self, history: History, horizon: float) -> float:
        rate = float(self._forecast.rate(history.arrivals, history.end, horizon))
        if not math.isfinite(rate):
            rate = self._fallback.rate(history.arrivals, history.end, horizon)
        return max(0.0, rate)


class _Watch:
    """The largest need of the last while, by whole seconds."""

    def __init__(self) -> None:
        self._needs: deque[tuple[int, int]] = deque()  # second and need, the needs falling
        self._since = self._last = math.inf

    def most_needed(self, now: float, seconds: float, need: int) -> int | None:
        """The most that was needed in the last `seconds`, now included; None before so much time was watched."""
        if now < self._last:
            self._needs.clear()
            self._since = now
        self._last = now
        while self._needs and self._needs[-1][1] <= need:
            self._needs.pop()
        self._needs.append((math.floor(now), need))
        while self._needs[0][0] < now - seconds - 1:
            self._needs.popleft()
        return self._needs[0][1] if now - self._since >= seconds else None


def _within(replicas: int, fewest: int, most: int) -> int:
    return max(fewest, min(most, replicas))
