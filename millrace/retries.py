"""Ask another system again when it did not answer: with growing, random pauses, a few times and no longer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from millrace.errors import MillraceError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Retries:
    """At most `attempts` tries; before the n-th retry a pause of up to `first_seconds` * 2**(n-1), at most `longest`.

    The pause is drawn evenly between nothing and its bound ("full jitter": Brooker, AWS Architecture Blog, 2015), so
    that ranks which failed together do not come back together.
    """

    attempts: int = 6
    first_seconds: float = 0.1
    longest_seconds: float = 10.0

    def bound(self, retry: int) -> float:
        """Longest pause before retry number `retry`, counted from 1, in seconds."""
        return float(min(self.longest_seconds, self.first_seconds * 2.0 ** (retry - 1)))

    def call(
        self,
        work: Callable[[], T],
        *,
        again_on: tuple[type[MillraceError], ...] = (),
        sleep: Callable[[float], None] = time.sleep,
    ) -> T:
        """What `work` gives; it must be safe to run twice.

        It is run again after an error that says that a retry can help, or is of one of the kinds `again_on`.

        Raises:
            MillraceError: the last try's.
        """
        for retry in range(1, self.attempts):
            try:
                return work()
            except MillraceError as error:
                if not error.retryable and not isinstance(error, again_on):
                    raise
            sleep(random.uniform(0, self.bound(retry)))
        return work()
