"""Tables that people decide by: a cell stays a cell, whatever is in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.artifacts import table


@given(rows=st.lists(st.lists(st.text(max_size=20), min_size=2, max_size=2), max_size=5))
def test_a_table_has_a_line_a_row_and_a_cell_a_column(rows: list[list[str]]) -> None:
    lines = table(["name", "text"], rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == 3 for line in lines)


def test_who_asks_cannot_write_evidence() -> None:
    written = table(["", ""], [["asked by", "eve\n| verdict | passed |"], ["verdict", "failed"]])
    assert [line for line in written.splitlines() if line.startswith("| verdict")] == ["| verdict | failed |"]
