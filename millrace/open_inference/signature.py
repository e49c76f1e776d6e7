"""A model's signature: the input tensors a pipeline takes, and the output tensors it gives.

| label | output | datatype | shape | |
|---|---|---|---|---|
| binary | `probability` | FP32 | [rows] | of the positive class |
| regression | `value` | FP32 | [rows] | |
| multiclass | `class` | BYTES | [rows] | the most likely |
| | `probabilities` | FP32 | [rows, classes] | in the order of `data.label.classes` |

FP32 is what a model answers with, so binary data loses nothing of what JSON tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from millrace.open_inference.tensors import BYTES, INT64, NUMBERS
from millrace.spec import CategoricalFeature, Label, NumericFeature, TableSpec


@dataclass(frozen=True, slots=True)
class Input:
    """An input tensor, [rows] or [rows, 1]. The first of its `datatypes` is the one that metadata tells.

    `empty_is_missing`: whether an empty text stands for a missing cell.
    """

    name: str
    kind: Literal["number", "category", "time", "row_id"]
    datatypes: tuple[str, ...]
    required: bool
    empty_is_missing: bool


@dataclass(frozen=True, slots=True)
class Output:
    """An output tensor, [rows], or [rows, `width`]."""

    name: str
    datatype: str
    width: int | None = None


def inputs_of(data: TableSpec) -> tuple[Input, ...]:
    """The features in the spec's order, the event's time, the row's name."""
    features = [
        Input(name, "number", tuple(NUMBERS), not feature.nullable, False)
        if isinstance(feature, NumericFeature)
        else Input(name, "category", (BYTES,), not feature.nullable, _may_lack(feature))
        for name, feature in data.features.items()
    ]
    return (
        *features,
        Input(data.event_time, "time", (BYTES, INT64), False, True),
        Input(data.row_id, "row_id", (BYTES,), False, True),
    )


def _may_lack(feature: CategoricalFeature) -> bool:
    return feature.nullable and "" not in feature.values


def outputs_of(label: Label) -> tuple[Output, ...]:
    """The outputs of a model with this label."""
    if label.kind == "multiclass":
        return Output("class", BYTES), Output("probabilities", "FP32", len(label.classes))
    return (Output("probability" if label.kind == "binary" else "value", "FP32"),)
