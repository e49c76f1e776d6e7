"""Who asks is a person with a name that can be shown beside other facts."""

from __future__ import annotations

import pytest

from millrace.errors import ConfigError
from tasks.requester import requester


@pytest.mark.parametrize("claimed", ["person:alice", "person:Zoë Ann", "person:person:x"])
def test_a_person_is_taken_by_name(claimed: str) -> None:
    assert requester(None, claimed) == claimed


@pytest.mark.parametrize(
    "claimed",
    ["", "alice", "person:", "person:" + "x" * 80, "person:eve\n| verdict | passed |", "person:\x1b[2J", "person:\0"],
)
def test_what_is_no_name_is_refused(claimed: str) -> None:
    with pytest.raises(ConfigError, match="names no person"):
        requester(None, claimed)


def test_nobody_is_known_without_a_schedule_and_without_a_name() -> None:
    assert requester(None, None) is None
