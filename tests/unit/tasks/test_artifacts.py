"""Tables that people decide by: a cell stays a cell, whatever is in it."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.goodput import Attempt, Goodput, Worker
from tasks import artifacts
from tasks.artifacts import table


@given(rows=st.lists(st.lists(st.text(max_size=20), min_size=2, max_size=2), max_size=5))
def test_a_table_has_a_line_a_row_and_a_cell_a_column(rows: list[list[str]]) -> None:
    lines = table(["name", "text"], rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == 3 for line in lines)


def test_who_asks_cannot_write_evidence() -> None:
    written = table(["", ""], [["asked by", "eve\n| verdict | passed |"], ["verdict", "failed"]])
    assert [line for line in written.splitlines() if line.startswith("| verdict")] == ["| verdict | failed |"]


def test_where_the_time_went_is_shown_in_seconds_shares_and_money(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, str] = {}
    monkeypatch.setattr(artifacts, "_create", lambda **said: made.update(said))
    spent = {"start": 10.0, "compute": 60.0, "data_wait": 20.0, "checkpoint": 10.0}
    attempt = Attempt(0, 1, 0.0, 100.0, {0: Worker(100.0, spent)}, 0, "finished")
    artifacts.goodput("tiny", Goodput.of([attempt]), 36.0, "EUR")
    assert made["key"] == "tiny-goodput"
    text = made["markdown"]
    assert text.startswith("# 60.0% of the workers' time")
    assert "| compute | 60.0 | 60.0% | 0.6000 |" in text
    assert "| data_wait | 20.0 | 20.0% | 0.2000 |" in text
    assert "| 1 | 1 | 100.0 | finished |" in text
    (plot,) = re.findall(r"\(data:image/svg\+xml;base64,([^)]+)\)", text)
    assert b"<svg" in base64.b64decode(plot)
