"""Word that this worker is to leave: from a SIGTERM to its process, or from whoever learns of it otherwise."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from millrace.errors import MillraceError


class PreemptedError(MillraceError):
    """A worker left, with notice: all that it did up to `step` is in a checkpoint."""

    retryable = True

    def __init__(self, step: int) -> None:
        super().__init__(f"the workers were asked to leave; a checkpoint of step {step} is committed")
        self.step = step


class Notice:
    """Whether notice was given to this process."""

    def __init__(self, given: threading.Event | None = None) -> None:
        self._given = given or threading.Event()

    @property
    def given(self) -> bool:
        return self._given.is_set()

    def give(self) -> None:
        self._given.set()


@contextmanager
def noticed(notice: Notice) -> Iterator[None]:
    """While the block runs, a SIGTERM to this Ray worker is a notice, not its end.

    The end comes by itself: the training stops after its step and its checkpoint, and whoever sent the signal kills
    what is left when the notice is over. Ray's own handler raises SystemExit in the main thread, which is not the one
    that trains, and handlers can only be set from the main thread: so what that handler calls is replaced.
    """
    from ray._private import worker

    original = worker.raise_sys_exit_with_custom_error_message

    def note(message: str, exit_code: int = 1) -> None:
        if "SIGTERM" in message:
            notice.give()
        else:
            original(message, exit_code=exit_code)

    worker.raise_sys_exit_with_custom_error_message = note
    try:
        yield
    finally:
        worker.raise_sys_exit_with_custom_error_message = original
