"""A short storm: a server killed, a process killed, events twice, late, lost and malformed; each incident runs once."""

from __future__ import annotations

import pytest

from benchmarks.reliability.storm import measure


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_every_incident_of_a_storm_has_one_training() -> None:
    figures = measure(incidents=300, server_kills=1, process_kills=1)
    assert figures["incidents"] == figures["opened_in_ledger"] == 300
    assert (figures["lost"], figures["double"]) == (0, 0), figures
    assert figures["malformed_refused"] == figures["malformed"] > 0
    assert figures["events_lost"] > 0, "the storm took something that the reconciler had to bring back"
