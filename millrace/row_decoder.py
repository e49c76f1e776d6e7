"""The fast way through a request that keeps the contract: one pass of a decoder that was compiled for the spec.

It only ever says yes. What it does not take goes the slow way, cell by cell, which finds the rule that was broken and
says so (`millrace.requests`); both ways give the same rows, which a property-based test compares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millrace.request_values import number_bounds
from millrace.spec import CategoricalFeature, NumericFeature, PipelineSpec

#: Whole numbers below it are floats without a loss.
_EXACT = 2.0**53


class RowDecoder:
    """Decodes `{"rows": [...]}` of one pipeline."""

    def __init__(self, spec: PipelineSpec) -> None:
        data = spec.table
        features = data.features.items()
        self._numeric = [(name, f) for name, f in features if isinstance(f, NumericFeature)]
        self._nullable = [name for name, f in self._numeric if f.nullable]
        self._categorical = [
            (name, f, {value: index + 1 for index, value in enumerate(f.values)} | ({None: 0} if f.nullable else {}))
            for name, f in features
            if isinstance(f, CategoricalFeature)
        ]
        self.names = [*(n for n, _ in self._numeric), *(n for n, *_ in self._categorical), data.event_time, data.row_id]
        kinds = [
            *(_number(f) for _, f in self._numeric),
            *((str | None if f.nullable else str, f.nullable) for _, f, _ in self._categorical),
            (str | None, True),
            (str | int | None, True),
        ]
        fields = [f"f{number}" for number in range(len(self.names))]
        row = msgspec.defstruct(
            "Row",
            [(f, kind, None) if may_lack else (f, kind) for f, (kind, may_lack) in zip(fields, kinds, strict=True)],
            rename=dict(zip(fields, self.names, strict=True)),
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,
        )
        rows = Annotated[list[row], msgspec.Meta(min_length=1, max_length=spec.serving.max_rows)]  # type: ignore[valid-type]
        body = msgspec.defstruct("Body", [("rows", rows)], forbid_unknown_fields=True)
        self._decoder: Any = msgspec.json.Decoder(body)

    def decode(self, body: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, list[Any]]] | None:
        """The batch for the model, and all columns by name, the event's time and the row's id as they were given.

        None when anything about the body is not plainly right.
        """
        try:
            rows = [msgspec.structs.astuple(row) for row in self._decoder.decode(body).rows]
        except (msgspec.MsgspecError, UnicodeError):
            return None
        columns: dict[str, Any] = dict(zip(self.names, map(list, zip(*rows, strict=True)), strict=True))
        indexes = np.empty((len(rows), len(self._categorical)), np.int64)
        for position, (name, feature, lookup) in enumerate(self._categorical):
            found = _indexes(columns[name], lookup, feature.open)
            if found is None:
                return None
            indexes[:, position] = found
        count = len(self._numeric)
        # By way of float64, as tables hold numbers. None becomes NaN.
        numbers = np.array([row[:count] for row in rows], np.float64).reshape(len(rows), count)
        if (np.abs(numbers) >= _EXACT).any():
            return None  # a whole number may have lost digits on its way here
        for name in self._nullable:
            columns[name] = [math.nan if value is None else value for value in columns[name]]
        return {"numeric": numbers.astype(np.float32), "categorical": indexes}, columns


def _number(feature: NumericFeature) -> tuple[Any, bool]:
    low, high = number_bounds(feature)
    number = Annotated[float, msgspec.Meta(ge=low, le=high)]
    return (number | None if feature.nullable else number), feature.nullable


def _indexes(cells: Sequence[str | None], lookup: Mapping[str | None, int], is_open: bool) -> list[int] | None:
    """The index of each category; None when one is neither known nor may be unknown."""
    if is_open:
        return [lookup.get(cell, 0) for cell in cells]
    try:
        return [lookup[cell] for cell in cells]
    except KeyError:
        return None
