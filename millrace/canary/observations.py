"""What one version did since the last look."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from millrace.errors import DataError

Floats = NDArray[np.float64]


def _none() -> Floats:
    return np.zeros(0)


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """One arm's requests since the last look, in any order. Arrays are float64 [observations], each maybe empty.

    A request is what the router sends to one version or the other, so it counts once: of a request with several rows
    give one prediction (its first row's, say) and the mean of its losses. Rows of a request are no independent
    evidence, as all of them go the same way.

    `latencies_ms` are of answered requests. `predictions` are numbers: a probability, a value, or the class's number;
    one that is not finite counts as above all others. `losses` lie in [0, 1]; leave out those of requests that were
    asked at another share than now, as the arms' mix was another then.

    Raises:
        DataError: a count or a value is impossible.
    """

    requests: int
    failures: int = 0
    latencies_ms: Floats = field(default_factory=_none)
    predictions: Floats = field(default_factory=_none)
    losses: Floats = field(default_factory=_none)

    def __post_init__(self) -> None:
        if not 0 <= self.failures <= self.requests:
            raise DataError(
                "the counts of a canary's observations contradict each other",
                got={"requests": self.requests, "failures": self.failures},
                allowed="0 <= failures <= requests",
                next="count failed requests among the requests",
            )
        largest = np.finfo(np.float64).max
        predictions = np.nan_to_num(_floats(self.predictions), nan=largest, posinf=largest, neginf=-largest)
        object.__setattr__(self, "latencies_ms", _within("latencies_ms", self.latencies_ms, largest))
        object.__setattr__(self, "predictions", predictions)
        object.__setattr__(self, "losses", _within("losses", self.losses, 1.0))


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64).reshape(-1)


def _within(name: str, values: ArrayLike, most: float) -> Floats:
    found = _floats(values)
    wrong = ~((found >= 0) & (found <= most))  # true for NaN too
    if wrong.any():
        raise DataError(
            f"{int(wrong.sum())} of {len(found)} {name} of a canary's observations are impossible",
            got=float(found[wrong][0]),
            allowed="numbers in [0, 1]" if most == 1 else "finite numbers from 0 on",
            next="scale losses to [0, 1]" if most == 1 else "look at how the answers are timed",
        )
    return found
