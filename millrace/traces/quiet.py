"""A warning that is repeated once a minute at the most: what is wrong with traces must not fill the logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Quiet:
    """Warns by `log`, and is silent for `seconds` after that."""

    log: logging.Logger
    seconds: float = 60.0
    clock: Callable[[], float] = time.monotonic
    _next: float = field(default=float("-inf"), init=False)

    def __call__(self, text: str) -> None:
        now = self.clock()
        if now >= self._next:
            self._next = now + self.seconds
            self.log.warning("%s", text)
