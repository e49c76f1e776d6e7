"""A version that answers, with the logs it writes to; kept until the last of its requests has its line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from millrace.inference_log import answers_header, answers_writer, outcomes_header, outcomes_writer
from millrace.log_writer import LogWriter
from ray_jobs.serve.versions import LoadedVersion


@dataclass(eq=False)
class Serving:
    """What a request needs, replaced as one: a request uses one version from its start to its log line."""

    version: LoadedVersion
    answers: LogWriter
    outcomes: LogWriter
    _in_use: int = field(default=0, init=False)
    _idle: asyncio.Event | None = field(default=None, init=False)

    @contextmanager
    def used(self) -> Iterator[Serving]:
        """A request is answered inside the block."""
        self._in_use += 1
        try:
            yield self
        finally:
            self._in_use -= 1
            if self._idle is not None and not self._in_use:
                self._idle.set()

    async def drained(self) -> None:
        """Wait until no request uses it; none begins to after it was replaced."""
        if self._in_use:
            self._idle = asyncio.Event()
            await self._idle.wait()


def serving_with_logs(version: LoadedVersion, folder: Path, before: Serving | None) -> Serving:
    """`version` with the logs of what served `before`, where they hold what it writes, or new ones below `folder`."""
    data, seconds = version.data, version.predictor.spec.serving.log_rotate_seconds
    answers = before.answers if before and before.answers.header == answers_header(data) else None
    outcomes = before.outcomes if before and before.outcomes.header == outcomes_header(data) else None
    return Serving(
        version,
        answers or answers_writer(folder, data, seconds),
        outcomes or outcomes_writer(folder, data, seconds),
    )
