"""A position goes through JSON, and what is none is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.train.position import Position


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(-1e6, 1e6)), max_size=12))
def test_it_survives_json(rounds: list[tuple[int, float]]) -> None:
    position = Position()
    for steps, loss in rounds:
        for _ in range(steps):
            position.stepped(loss)
        position.validated(loss, {"validation_loss": loss})
    again = Position.from_dict(json.loads(json.dumps(position.as_dict(), allow_nan=False)))
    assert again == position
    assert again.step == sum(steps for steps, _ in rounds)
    if rounds:
        lowest = min(loss for _, loss in rounds)
        first = [loss for _, loss in rounds].index(lowest)
        assert (again.best_loss, again.best_round) == (lowest, first + 1)
        assert again.best_step == sum(steps for steps, _ in rounds[: first + 1])
        assert again.stale_rounds == len(rounds) - first - 1
    else:
        assert again.best_loss == math.inf


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": "1"},
        {"step": True},
        {"best_step": 9},
        {"best_round": 2},
        {"losses": "much"},
        {"best_loss": "low"},
        {"history": 3},
        {"history": [3]},
        {"history": [{"loss": "low"}]},
        {"more": 1},
    ],
)
def test_what_is_no_position_is_refused(change: dict[str, Any]) -> None:
    known = Position(step=3, best_step=2, best_round=1, history=[{"step": 2.0}]).as_dict()
    assert Position.from_dict(known).step == 3
    with pytest.raises(ValueError, match=r"position|history|best"):
        Position.from_dict(known | change)
    with pytest.raises(ValueError, match="a position has"):
        Position.from_dict({name: value for name, value in known.items() if name not in change} | {"other": 1})
