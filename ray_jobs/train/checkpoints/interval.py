"""How often to save: the interval that loses the least time to saves and to work done again after failures.

With a save that costs C seconds and a failure every M seconds on average, an interval of T seconds loses C/T to saves
and about T/(2M) to repeated work; the sum is least at T = sqrt(2 C M) (Young, CACM 17(9), 1974; Daly, FGCS 22(3),
2006, whose higher-order terms matter only where C is no longer small beside M).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FailureRate:
    """What is believed of failures before any is seen: a gamma prior, as if `failures` came in `seconds`.

    The default: one failure a day. After `n` failures in `t` seconds the mean rate is (failures + n) / (seconds + t).
    """

    failures: float = 1.0
    seconds: float = 86_400.0

    def seen(self, failures: int, seconds: float) -> FailureRate:
        """The belief after so many failures in so many seconds of training."""
        return FailureRate(self.failures + failures, self.seconds + seconds)

    @property
    def mean_seconds(self) -> float:
        """Mean time between failures."""
        return self.seconds / self.failures


def young_daly_seconds(save_seconds: float, mean_seconds_between_failures: float) -> float:
    """The best interval between saves, in seconds; never shorter than a save."""
    return max(save_seconds, math.sqrt(2.0 * save_seconds * mean_seconds_between_failures))


def every_steps(
    blocking_seconds: float,
    total_seconds: float,
    step_seconds: float,
    rate: FailureRate,
    *,
    largest_loss: float = 0.01,
    most_seconds: float = 3_600.0,
) -> int:
    """Optimizer steps between saves, at least 1.

    Args:
        blocking_seconds: What a save takes from the training: for an asynchronous one the copy into host memory.
        total_seconds: From a save's begin to its commit; saves follow each other no faster.
        step_seconds: Of one optimizer step.
        rate: What is believed of failures.
        largest_loss: Saves may take this share of the time, whatever failures say.
        most_seconds: An interval is never longer, however rare failures are.
    """
    best = young_daly_seconds(blocking_seconds, rate.mean_seconds)
    bounded = max(min(best, most_seconds), total_seconds, blocking_seconds / largest_loss)
    return max(1, math.ceil(bounded / step_seconds))
