"""Which checkpoints there are, and which is the newest: order, retention, and what dead writers left.

A checkpoint's key is PREFIX/gGENERATION-sSTEP. Whoever opens a prefix to write claims the next generation, by a
conditional put that one writer wins, and proves after it that it holds the run's token. The newest checkpoint is the
highest by (generation, step): a writer that lost its token claimed before the next holder did, so whatever it still
manages to commit sorts below all that the holder commits, and no clock is asked.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from millrace.retries import Retries
from millrace.storage import Artifact, ObjectStore

_NAME = re.compile(r"g(\d{6})-s(\d{10})")
_ABANDONED = {"abandoned": True}

#: So many keys of writers that were given up, and of claims, stay; older ones go, or every listing would grow for ever.
_REMEMBERED = 16


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a checkpoint stands in the line."""

    generation: int
    step: int

    @property
    def name(self) -> str:
        return f"g{self.generation:06d}-s{self.step:010d}"


class Line:
    """The checkpoints under one prefix."""

    def __init__(self, store: ObjectStore, prefix: str, retries: Retries) -> None:
        self.store, self.prefix, self._retries = store, prefix, retries
        self._abandoned: set[Place] = set()

    def key(self, place: Place) -> str:
        return f"{self.prefix}/{place.name}"

    def claim(self) -> int:
        """A generation above all that were claimed before."""
        names = self._retries.call(lambda: self.store.names(f"{self.prefix}/writers"))
        generation = max((int(name) for name in names if name.isdigit()), default=0) + 1
        mine = uuid.uuid4().hex
        while True:
            key = f"{self.prefix}/writers/{generation:06d}"
            won = self._retries.call(partial(self._claim, key, mine))
            if won:
                break
            generation += 1
        for name in names:
            if name.isdigit() and int(name) < generation - _REMEMBERED:
                self._retries.call(partial(self.store.remove, f"{self.prefix}/writers/{name}"))
        return generation

    def _claim(self, key: str, mine: str) -> bool:
        return self.store.publish(key, {}, summary={"writer": mine}).summary.get("writer") == mine

    def places(self) -> list[Place]:
        """Of everything that lies there, committed or not, newest first."""
        names = self._retries.call(lambda: self.store.names(self.prefix))
        found = (_NAME.fullmatch(name) for name in names)
        return sorted((Place(int(match[1]), int(match[2])) for match in found if match), reverse=True)

    def find(self, place: Place) -> Artifact | None:
        """The checkpoint at `place`; None where none was committed, or its writer was given up."""
        if place in self._abandoned:
            return None
        artifact = self._retries.call(lambda: self.store.find(self.key(place)))
        if artifact is not None and artifact.summary == _ABANDONED:
            self._abandoned.add(place)
            return None
        return artifact

    def committed(self) -> Iterable[tuple[Place, Artifact]]:
        """What may be loaded, newest first."""
        for place in self.places():
            if (artifact := self.find(place)) is not None:
                yield place, artifact

    def sweep(self, newest: Place, keep: int, kept: Iterable[Place], also: int | None) -> None:
        """Remove what is older than `newest` but for the newest `keep`, those `kept`, and the newest of step `also`."""
        older = [place for place in self.places() if place <= newest]
        found = [place for place in older if self.find(place) is not None]
        staying = set(found[:keep]) | set(kept) | set([place for place in found if place.step == also][:1])
        for place in older:
            if place in found and place not in staying:
                self._retries.call(partial(self.store.remove, self.key(place)))
            elif place not in found and place not in self._abandoned:
                self._give_up(place)
        for place in [place for place in older if place in self._abandoned][_REMEMBERED:]:
            self._retries.call(partial(self.store.remove, self.key(place)))
            self._abandoned.discard(place)

    def _give_up(self, place: Place) -> None:
        """Take away the files of a writer that never committed.

        It may still live, and commit what is no longer there: so its key is taken first, by a manifest that names
        nothing, and one conditional put decides which of the two it was.
        """
        key = self.key(place)
        if self._retries.call(lambda: self.store.publish(key, {}, summary=_ABANDONED)).summary != _ABANDONED:
            return
        self._abandoned.add(place)
        for name in self._retries.call(lambda: self.store.names(key)):
            if re.fullmatch(r"[0-9a-f]{12}", name):
                self._retries.call(partial(self.store.discard, key, name))
