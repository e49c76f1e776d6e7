"""Which version served before, whatever promotions and rollbacks came in between."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from millrace.ledger import Decision
from tasks.rollout import PROMOTED, REFUSED, ROLLED_BACK, served_before


def decided(*pairs: tuple[str, str]) -> list[Decision]:
    return [Decision(datetime.now(UTC), "p", kind, subject, {}) for kind, subject in pairs]


@pytest.mark.parametrize(
    ("history", "current", "before"),
    [
        ([], "1", None),
        ([(PROMOTED, "1")], "1", None),
        ([(PROMOTED, "1"), (PROMOTED, "2")], "2", "1"),
        ([(PROMOTED, "1"), (REFUSED, "2"), (PROMOTED, "3")], "3", "1"),
        ([(PROMOTED, "1"), (PROMOTED, "2"), (PROMOTED, "3"), (ROLLED_BACK, "2")], "2", "1"),
        ([(PROMOTED, "1"), (PROMOTED, "2"), (ROLLED_BACK, "1")], "1", None),
        ([(PROMOTED, "1"), (PROMOTED, "2"), (ROLLED_BACK, "1"), (PROMOTED, "3")], "3", "1"),
        ([(PROMOTED, "1"), (PROMOTED, "1"), (PROMOTED, "2")], "2", "1"),
    ],
)
def test_served_before(history: list[tuple[str, str]], current: str, before: str | None) -> None:
    assert served_before(decided(*history), current) == before
