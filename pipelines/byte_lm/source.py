"""The sources of the standard library of the Python that runs: text that every installation carries."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pandas as pd

# Tests are half of the library and of another kind; what is installed beside it differs by machine.
LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


class StandardLibrary:
    """One document a module, named by its path.

    Files have no time that is the same everywhere: a document's is drawn from its name, evenly over `year`, so that
    windows of time are random parts of the library, and always the same ones.

    Args:
        year: in which the documents are said to have come.
        share: of the documents that there are, from 0 to 1; the same ones for the same share.
        folder: of the library; none: that of the Python that runs.
    """

    def __init__(self, year: int = 2024, share: float = 1.0, folder: str | None = None) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}, above 0 and up to 1 is allowed")
        self.start, self.end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
        self.share = share
        self.folder = Path(folder or sysconfig.get_path("stdlib"))

    def extent(self) -> tuple[datetime, datetime]:
        """The whole year."""
        return self.start, self.end

    def fingerprint(self) -> str:
        """Digest of Python's version, and of names and contents."""
        digest = hashlib.sha256(sys.version.encode())
        for name in self.moments:
            digest.update(f"{name}\0".encode() + hashlib.sha256((self.folder / name).read_bytes()).digest())
        return digest.hexdigest()

    def rows(self, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
        """The documents of [start, end), none that came after `as_of`: document, at, text."""
        names = [name for name, at in self.moments.items() if start <= at < end and at <= as_of]
        return pd.DataFrame(
            {
                "document": pd.Series(names, dtype=object),
                "at": pd.DatetimeIndex([self.moments[name] for name in names], tz=UTC),
                # A file in another encoding keeps its bytes as lone surrogates: the contract refuses it by name.
                "text": pd.Series([self._text(name) for name in names], dtype=object),
            }
        )

    @cached_property
    def moments(self) -> dict[str, datetime]:
        """When each document came, by its name; names in order."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*.py"))
        names = sorted(path.as_posix() for path in paths if not LEFT_OUT.intersection(path.parts))
        chosen = [name for name in names if _even(f"share {name}") < self.share]
        if not chosen:
            raise FileNotFoundError(f"{self.folder} holds no Python sources")
        return {name: self.start + timedelta(seconds=int(_even(name) * self._seconds)) for name in chosen}

    @property
    def _seconds(self) -> float:
        return (self.end - self.start).total_seconds()

    def _text(self, name: str) -> str:
        return (self.folder / name).read_bytes().decode(errors="surrogateescape")


def _even(name: str) -> float:
    """A number in [0, 1) that looks drawn at random, and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) / 2**48
