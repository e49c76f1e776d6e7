"""The model card names everything a person should know before trusting a version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from millrace.card import model_card
from millrace.spec import PipelineSpec


def card(spec: PipelineSpec, **change: Any) -> str:
    return model_card(
        spec,
        **{
            "num_rows": 12_345,
            "num_unlabelled": 67,
            "windows": {"training": "2024-01-01 to 2024-02-01"},
            "metrics": {"validation_roc_auc": 0.712345678},
            "lineage": {"data": "abc123"},
        }
        | change,
    )


def test_it_says_what_it_is_made_of(make_spec: Callable[..., PipelineSpec]) -> None:
    text = card(make_spec(change={"owner": "ops", "description": "Sizes of things."}))
    for line in (
        "# tiny",
        "Sizes of things.",
        "- **Predicts** `answer` (binary), known at `at`",
        "- **Owner** ops",
        "- **Fitted on** 12,345 labelled rows; 67 rows had no outcome and were counted, not guessed",
        "| training | 2024-01-01 to 2024-02-01 |",
        "| validation_roc_auc | 0.71235 |",
        "| data | abc123 |",
    ):
        assert line in text.splitlines()


def test_it_lists_the_whole_contract(make_spec: Callable[..., PipelineSpec]) -> None:
    change = {
        "data.features.colour.open": True,
        "data.features.size.description": "in metres",
        "data.label.known_at": "t",
    }
    lines = card(make_spec(change=change)).splitlines()
    assert "| `size` | numeric | 0 … 10 | no | in metres |" in lines
    assert "| `weight` | numeric |  …  | yes |  |" in lines
    assert "| `colour` | categorical | 3 categories, open | yes |  |" in lines
    assert "- **Predicts** `answer` (binary), known at `t`" in lines
    assert "- **Owner** not named" in lines


def test_a_description_cannot_break_the_table(make_spec: Callable[..., PipelineSpec]) -> None:
    text = card(make_spec(change={"data.features.size.description": "a | b\nc"}))
    assert "| `size` | numeric | 0 … 10 | no | a \\| b c |" in text.splitlines()
