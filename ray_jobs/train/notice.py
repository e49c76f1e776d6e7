"""Word that this worker's machine goes away: from a SIGTERM to its process, or from whoever learns of it otherwise."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from millrace.errors import MillraceError

_given = threading.Event()


class PreemptedError(MillraceError):
    """A worker left, with notice: all that it did up to `step` is in a checkpoint."""

    retryable = True

    def __init__(self, step: int) -> None:
        super().__init__(f"the worker's machine goes away; a checkpoint of step {step} is committed")
        self.step = step


class Notice:
    """Whether notice was given to this process."""

    def __init__(self, given: threading.Event | None = None) -> None:
        self._given = given or threading.Event()

    @classmethod
    def of_process(cls) -> Notice:
        """That which `install` watches for."""
        return cls(_given)

    @property
    def given(self) -> bool:
        return self._given.is_set()

    def give(self) -> None:
        self._given.set()


def install() -> None:
    """From now on a SIGTERM to this process is a notice, not its end. Ray calls this in each worker's main thread.

    The end comes by itself: the training stops after its step and its checkpoint, and whoever sent the signal kills
    what is left when the notice is over.
    """

    def note(number: int, frame: FrameType | None) -> None:
        _given.set()

    signal.signal(signal.SIGTERM, note)
