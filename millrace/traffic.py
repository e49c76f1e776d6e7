"""Which version answers whom: shares of a ring on which every cohort has its place.

A cohort is whoever must always meet the same version: a customer, a session, or, where nobody says, the request itself.
Its place on the ring is a hash, so every replica comes to the same answer without asking another one. A new division
moves the arcs that must move and no others: who is with a version whose share stays, stays with it (consistent
hashing: Karger et al., 1997, with arcs of exact length in place of random points).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any, Self

from millrace.errors import ConfigError, shorten

#: Places on the ring: a share is a whole number of them, so of 0.0001 %.
RING = 1_000_000
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Arc:
    """The places from the end of the arc before to `end`, which is not its own."""

    end: int
    version: str


@dataclass(frozen=True)
class Division:
    """The ring, divided among versions; the last arc ends at `RING`."""

    arcs: tuple[Arc, ...]

    @classmethod
    def whole(cls, version: str) -> Self:
        """All traffic to one version."""
        return cls((Arc(RING, version),))

    @classmethod
    def from_json(cls, arcs: list[list[Any]]) -> Self:
        return cls(tuple(Arc(end, version) for end, version in arcs))

    def as_json(self) -> list[list[Any]]:
        return [[arc.end, arc.version] for arc in self.arcs]

    def version_of(self, cohort: str) -> str:
        """The version that answers `cohort`."""
        return self.arcs[bisect_right(self._ends, place(cohort))].version

    @property
    def shares(self) -> dict[str, float]:
        """Version -> its share, from 0 to 1."""
        return {version: count / RING for version, count in self._counts().items()}

    def moved(self, shares: Mapping[str, float]) -> Division:
        """The division with these shares that changes the version of as few cohorts as can be.

        Raises:
            ConfigError: the shares are none, or do not sum to 1.
        """
        wanted = _counts_of(shares)
        counts = self._counts()
        surplus = {version: max(0, count - wanted.get(version, 0)) for version, count in counts.items()}
        takers = iter(
            (version, count - counts.get(version, 0))
            for version, count in sorted(wanted.items())
            if count > counts.get(version, 0)
        )
        taker, room = next(takers, ("", 0))
        pieces: list[Arc] = []
        start = 0
        for arc in self.arcs:
            kept = max(start, arc.end - surplus[arc.version])
            surplus[arc.version] -= arc.end - kept
            if kept > start:
                pieces.append(Arc(kept, arc.version))
            while kept < arc.end:
                taken = min(room, arc.end - kept)
                kept, room = kept + taken, room - taken
                pieces.append(Arc(kept, taker))
                if not room:
                    taker, room = next(takers, ("", 0))
            start = arc.end
        return Division(tuple(_merged(pieces)))

    @cached_property
    def _ends(self) -> list[int]:
        return [arc.end for arc in self.arcs]

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        start = 0
        for arc in self.arcs:
            counts[arc.version] = counts.get(arc.version, 0) + arc.end - start
            start = arc.end
        return counts


def place(cohort: str) -> int:
    """Where on the ring `cohort` is."""
    return int.from_bytes(blake2b(cohort.encode(errors="surrogatepass"), digest_size=8).digest()) % RING


def _counts_of(shares: Mapping[str, float]) -> dict[str, int]:
    """Places for each share: rounded down, and what is left to the largest remainders."""
    if not all(0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > _TOLERANCE:
        raise ConfigError(
            "the shares of the traffic are no division of it",
            got=shorten(", ".join(f"{version}: {share:g}" for version, share in shares.items())),
            allowed="a share from 0 to 1 for each version, 1 in all",
        )
    exact = {version: share * RING for version, share in shares.items()}
    counts = {version: int(places) for version, places in exact.items()}
    by_remainder = sorted(exact, key=lambda version: (counts[version] - exact[version], version))
    for version in by_remainder[: RING - sum(counts.values())]:
        counts[version] += 1
    # A sum a little above 1 may have rounded up to more places than there are.
    for version in sorted(counts, key=lambda version: -counts[version])[:1]:
        counts[version] -= sum(counts.values()) - RING
    return {version: count for version, count in counts.items() if count}


def _merged(pieces: list[Arc]) -> Iterator[Arc]:
    for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
        if following is None or following.version != piece.version:
            yield piece
