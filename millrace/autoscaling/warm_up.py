"""How long a replica takes from the decision to the first request that it can answer, as it was seen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

#: Until one has been seen to start: what a replica tells of its own part, and this for its process and its imports.
_PROCESS_SECONDS = 5.0
_UNKNOWN_SECONDS = 10.0
_LONGEST_SECONDS = 600.0
_KEPT = 5


@dataclass
class WarmUp:
    """Watches how many replicas were wanted and how many run. `seconds` is the longest of the newest few starts."""

    _seen: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT), init=False)
    _wanted: int = field(default=0, init=False)
    _since: float | None = field(default=None, init=False)

    def observe(self, now: float, running: int, wanted: int) -> None:
        """At Unix time `now`, `running` replicas of `wanted` answer."""
        if self._since is not None and running >= self._wanted:
            if 0 < now - self._since <= _LONGEST_SECONDS:
                self._seen.append(now - self._since)
            self._since = None
        if wanted <= running:
            self._since = None
        elif self._since is None or wanted > self._wanted:
            self._since = now
        self._wanted = wanted

    def seconds(self, told: float) -> float:
        """The warm-up to reckon with; `told` is what replicas say of themselves, 0 where they say nothing."""
        if self._seen:
            return max(self._seen)
        return told + _PROCESS_SECONDS if told > 0 else _UNKNOWN_SECONDS
