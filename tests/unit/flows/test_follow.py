"""What a flow run left is told; one that left nothing is told as such."""

from __future__ import annotations

from contextlib import closing

import pytest

from flows.follow import record_of
from millrace.errors import ConflictError
from millrace.ledger import Ledger
from millrace.settings import Settings


def test_the_record_of_a_run_is_found_and_its_absence_told(local_settings: Settings) -> None:
    with pytest.raises(ConflictError, match="run-1 left no record"):
        record_of(local_settings, "tiny", "trained", "run-1")
    with closing(Ledger(local_settings.ledger)) as ledger:
        ledger.decide("tiny", "trained", "run-1", {"outcome": "promoted"})
    assert record_of(local_settings, "tiny", "trained", "run-1") == {"outcome": "promoted"}
