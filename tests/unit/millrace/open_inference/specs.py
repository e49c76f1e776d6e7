"""A spec with one feature of each sort that the protocol treats in its own way, and requests for it."""

from __future__ import annotations

import math
from typing import Any

from millrace.spec import PipelineSpec
from millrace.spec.load import parse_spec
from tests.unit.millrace.open_inference import wire

FEATURES: dict[str, Any] = {
    "delay": {"kind": "numeric", "min": -10.0, "max": 1e6},
    "carrier": {"kind": "categorical", "values": ["AA", "UA", "B6"]},
    "wind": {"kind": "numeric", "nullable": True},
    "tail/no": {"kind": "categorical", "values": ["N1", "N2"], "open": True, "nullable": True},
    "note": {"kind": "categorical", "values": ["ok"], "open": True},
    "grade": {"kind": "categorical", "values": ["", "a", "ü"], "nullable": True},
}
LABELS: dict[str, dict[str, Any]] = {
    "binary": {"kind": "binary"},
    "multiclass": {"kind": "multiclass", "classes": ["no", "yes", "Größe"]},
    "regression": {"kind": "regression"},
    "named": {"kind": "binary", "positive": "late"},
}

ROWS = [
    {"delay": 1.5, "carrier": "UA", "wind": None, "tail/no": "N9", "note": "", "grade": "ü"},
    {"delay": 2.0, "carrier": "AA", "wind": 0.25, "tail/no": None, "note": "ok", "grade": ""},
]
for _row in ROWS:
    _row |= {"departs": "2024-01-02T03:04:05Z", "flight": "f"}
NUMBERS = ("delay", "wind")


def make_spec(label: str = "binary", features: dict[str, Any] | None = None, **serving: Any) -> PipelineSpec:
    kind = LABELS[label]["kind"]
    return parse_spec(
        {
            "name": "tiny",
            "description": "Late or not",
            "data": {
                "source": "source:S",
                "event_time": "departs",
                "row_id": "flight",
                "features": features or FEATURES,
                "label": {"column": "late", **LABELS[label]},
            },
            "evaluation": {"metric": {"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}[kind]},
            "serving": serving,
        }
    )


def by_name(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row.get(name) for row in rows]


def tensor(name: str, cells: list[Any], *, binary: bool = False, datatype: str = "") -> Any:
    """The input of a column; what is missing is written as the documents of the protocol's module say."""
    datatype = datatype or ("FP64" if name in NUMBERS else "BYTES")
    if not binary:
        return wire.json_input(name, datatype, cells)
    missing: Any = math.nan if name in NUMBERS else ""
    return wire.binary_input(name, datatype, [missing if cell is None else cell for cell in cells])


def given_rows(rows: list[dict[str, Any]], *, binary: bool = False, **changed: Any) -> list[Any]:
    """The inputs of `rows`; `changed` replaces some, None leaves one out."""
    names = {name: None for row in rows for name in row}
    inputs = {name: tensor(name, by_name(rows, name), binary=binary) for name in names} | changed
    return [found for found in inputs.values() if found is not None]
