"""Which version served before, whatever promotions and rollbacks came in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.ledger import Ledger, Token
from tasks.champion_pile import served_before


@pytest.mark.parametrize(
    ("served", "before"),
    [
        ([], None),
        (["1"], None),
        (["1", "2"], "1"),
        (["1", "2", "3"], "2"),
        (["1", "2", "3", "2"], "1"),
        (["1", "2", "1"], None),
        (["1", "2", "1", "3"], "1"),
        (["1", "2", "3", "1", "4", "1"], None),
    ],
)
def test_served_before(served: list[str], before: str | None, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    token = ledger.slots.take("p", "serving", "run")
    assert isinstance(token, Token)
    for version in served:
        because = ledger.decide("p", "promoted", version, {"n": version})
        ledger.serve("p", version, f"digest-{version}", because=because, token=token)
    found = served_before(ledger, "p")
    assert (found and found.subject) == before
