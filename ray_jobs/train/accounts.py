"""Where the time of a run's attempts went, kept in the object store: it outlives workers, drivers and clusters."""

from __future__ import annotations

import re

from millrace.goodput import Attempt
from millrace.storage import ObjectStore

_NAME = re.compile(r"a(\d{4})-v(\d{6})")


class Accounts:
    """Those of one run, under `prefix`. Each version of an attempt's account replaces the one before it."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def read(self) -> list[Attempt]:
        """The newest of each attempt, in order."""
        return [
            Attempt.from_dict(artifact.summary)
            for number, version in sorted(self._newest().items())
            if (artifact := self._store.find(self._key(number, version))) is not None
        ]

    def keep(self, attempt: Attempt) -> None:
        """Put `attempt` in the place of what is known of it.

        Raises:
            ServiceError: the store does not answer; what was known stays.
        """
        known = self._newest().get(attempt.number)
        self._store.publish(self._key(attempt.number, (known or 0) + 1), {}, summary=attempt.as_dict())
        if known is not None:
            self._store.remove(self._key(attempt.number, known))

    def _newest(self) -> dict[int, int]:
        found = [_NAME.fullmatch(name) for name in self._store.names(self._prefix)]
        places = sorted((int(match[1]), int(match[2])) for match in found if match)
        return dict(places)

    def _key(self, number: int, version: int) -> str:
        return f"{self._prefix}/a{number:04d}-v{version:06d}"
