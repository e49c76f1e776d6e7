"""A ledger on SQLite. `tests/integration/test_ledger_postgres.py` runs the same tests on PostgreSQL."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator

import pytest

from millrace.ledger import Ledger


@pytest.fixture(scope="session")
def new_url(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """The URL of a new database with an empty ledger; a copy costs less than its migrations."""
    folder = tmp_path_factory.mktemp("ledgers")
    ledger = Ledger(f"sqlite:///{folder}/empty.db")
    assert ledger.entries() == []
    ledger.close()
    numbers = itertools.count()

    def make() -> str:
        path = folder / f"{next(numbers)}.db"
        shutil.copy(folder / "empty.db", path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture(scope="session")
def blank_url(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """The URL of a database that nobody has used yet."""
    return lambda: f"sqlite:///{tmp_path_factory.mktemp('blank')}/new/ledger.db"


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    return new_url()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    made = Ledger(url)
    yield made
    made.close()
