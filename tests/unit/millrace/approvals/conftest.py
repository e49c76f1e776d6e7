"""A scene with an open request and two approvers, in a ledger of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.reliability.approvals import Scene
from millrace.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(f"sqlite:///{tmp_path}/ledger.db")) as made:
        yield made


@pytest.fixture
def scene(ledger: Ledger) -> Scene:
    return Scene.build(ledger)
