"""Live progress on a terminal: a line for what is done, a spinner for what is under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.status import Status

_NAME_WIDTH = 16


class Progress:
    """Lines on stderr, each with the seconds since the command began; stdout is left to the answer."""

    def __init__(self, started: float | None = None) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._started = time.time() if started is None else started
        self._status: Status | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.time() - self._started

    def line(self, subject: str, message: str, seconds: float | None = None, style: str = "") -> None:
        took = "" if seconds is None else f" [dim]({seconds:.1f} s)[/dim]"
        text = f"[{style}]{escape(message)}[/{style}]" if style else escape(message)
        whom = escape(f"{subject:<{_NAME_WIDTH}}")
        self.console.print(f"[dim]{self.seconds:6.1f} s[/dim]  [bold]{whom}[/bold] {text}{took}", soft_wrap=True)

    def stack(self, part: str, message: str, seconds: float | None) -> None:
        """For the embedded stack's events."""
        self.line(part, message, seconds)

    def step(self, name: str, seconds: float | None) -> None:
        """For the steps of a flow that runs in this process."""
        if seconds is None:
            self.doing(name)
        else:
            self.line("", name.replace("_", " "), seconds)

    def doing(self, what: str) -> None:
        """What the spinner says; without a terminal there is no spinner."""
        if self._status is not None:
            self._status.update(escape(f"{what.replace('_', ' ')} …"))

    @contextmanager
    def spinner(self, what: str) -> Iterator[None]:
        """Show a spinner while the block runs."""
        if self._status is not None or not self.console.is_terminal:
            self.doing(what)
            yield
            return
        with self.console.status(escape(f"{what} …")) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None
