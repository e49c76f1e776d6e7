"""Canaries: distinct random secrets, and what finds them again in anything, plain or encoded.

Each begins and ends with letters that all canaries of a nest share and nothing else has: so a search for two short
strings, in each form, finds a piece of any canary, and the middle says which one it was.
"""

from __future__ import annotations

import base64
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field

_EDGE_CHARS = 8
_MIDDLE_CHARS = 10
_ALPHABET = string.ascii_letters + string.digits


@dataclass
class Nest:
    """`count` canaries, the same for the same seed; `take` gives those that were not given out yet."""

    count: int
    seed: int
    _given: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        randomness = random.Random(self.seed)
        # No hexadecimal digits, or digests would be taken for a piece of a canary.
        self.head, self.tail = (
            "".join(randomness.choices("ghkmnpqrstuvwxyzGHKMNPQRSTUVWXYZ", k=_EDGE_CHARS)) for _ in "ab"
        )
        middles: set[str] = set()
        while len(middles) < self.count:
            middles.add("".join(randomness.choices(_ALPHABET, k=_MIDDLE_CHARS)))
        self.canaries = [f"{self.head}{middle}{self.tail}" for middle in sorted(middles)]
        self._by_lower = {canary.lower(): canary for canary in self.canaries}
        self._needles = [(form, needle) for edge in (self.head, self.tail) for form, needle in _forms(edge)]
        self._whole = re.compile(f"{self.head}.{{{_MIDDLE_CHARS}}}{self.tail}".lower().encode(), re.DOTALL)

    def take(self, count: int) -> list[str]:
        """The next `count` canaries."""
        start = self._given
        self._given += count
        if self._given > self.count:
            raise ValueError(f"{self._given} canaries are taken; there are {self.count}")
        return self.canaries[start : self._given]

    @property
    def left(self) -> int:
        return self.count - self._given

    def find(self, content: bytes) -> Iterator[str]:
        """What of the canaries is in `content`: whole ones by name, else the form in which a piece is there."""
        lower = content.lower()
        plain = set(self._whole.findall(lower))
        yield from (self._by_lower.get(found.decode("latin-1"), "an unknown canary") for found in plain)
        rest = self._whole.sub(b"", lower) if plain else lower
        for form, needle in self._needles:
            where = content if form == "base64" else rest
            if needle in where:
                yield f"a piece, {form}"


def _forms(edge: str) -> Iterator[tuple[str, bytes]]:
    """The forms in which a text may hide: each with bytes that are there whatever stands around it."""
    raw = edge.encode()
    yield "plain", raw.lower()
    yield "plain", raw.lower().decode().encode("utf-16-le")
    yield "hex", raw.hex().encode()
    yield "percent", "".join(f"%{byte:02x}" for byte in raw).encode()
    for shift in range(3):
        # Characters whose six bits lie wholly within the edge.
        encoded = base64.b64encode(b"\0" * shift + raw)
        yield "base64", encoded[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
