"""The checks of the values in a request; `millrace.requests` and `millrace.open_inference` apply them to whole bodies.

Each check answers the values in the form that is stored, or raises a `RequestError` whose `field` is a JSON pointer.
Those of a column take its cells in order, None where one is missing, and where they stand in the body.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millrace.errors import RequestError, nearest, shorten
from millrace.spec import CategoricalFeature, Label, NumericFeature
from millrace.window import FIRST_TIME, LAST_TIME, utc

Cells = list[Any]

#: What a caller's request id may look like: safe in a header, a log line and a file name.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
REQUEST_ID_RULE = "1 to 128 letters, digits, '.', '_', ':' or '-'"

_MAX_SHOWN_CHARS = 64
MAX_ROW_ID_CHARS = 256
MAX_ROW = 2**31 - 1
# A larger float64 becomes infinite in the model's float32.
LARGEST = float(np.finfo(np.float32).max)
_TIME_RULE = "a time such as 2013-06-01T12:00:00Z, from 1678 to 2261"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    distance = moment - _EPOCH
    return (distance.days * 86_400 + distance.seconds) * 1_000_000 + distance.microseconds


_FIRST, _LAST = _microseconds(FIRST_TIME), _microseconds(LAST_TIME)


class Place(NamedTuple):
    """Where the cells of a column stand in a body: their JSON pointer is `before`, the cell's number, `after`."""

    before: str
    after: str
    column: str = ""
    """Its name, where the pointer does not tell it."""

    def broken(self, index: int, rule: str, got: object, allowed: str) -> RequestError:
        """The error for cell `index`."""
        return broken(f"{self.before}{index}{self.after}", rule, got, allowed, column=self.column)


def broken(field: str, rule: str, got: object, allowed: str, *, column: str = "") -> RequestError:
    """The error for the value under `field`; it names the `column`, where given."""
    where = field or "the body"
    if column:
        where = f"{where} ({shorten(column, _MAX_SHOWN_CHARS)})"
    what = f"{where} is missing" if rule == "required" else f"{where} breaks the rule: {rule}"
    return RequestError(what, field=field, rule=rule, got=got, allowed=allowed, next="correct the request")


def escape(name: str) -> str:
    """One token of a JSON pointer (RFC 6901); a hostile key is not echoed at length."""
    return shorten(name, _MAX_SHOWN_CHARS).replace("~", "~0").replace("/", "~1")


def near(value: object, known: Iterable[str]) -> str:
    """What is allowed instead of `value`; a hostile value is compared by its beginning only."""
    return nearest(value[:_MAX_SHOWN_CHARS] if isinstance(value, str) else "", known)


def check_request_id(value: str) -> str:
    """`value`, when it may name a request.

    Raises:
        RequestError: it is too long, empty, or has other characters.
    """
    if REQUEST_ID.fullmatch(value) is None:
        raise RequestError(
            "header x-request-id breaks its rule",
            field="x-request-id",
            rule="format",
            got=value,
            allowed=REQUEST_ID_RULE,
            next="correct the header or leave it out",
        )
    return value


def number_bounds(feature: NumericFeature) -> tuple[float, float]:
    """The least and the greatest value that the feature may have, both of which float32 holds."""
    low = -LARGEST if feature.min is None else max(feature.min, -LARGEST)
    high = LARGEST if feature.max is None else min(feature.max, LARGEST)
    return low, high


def numbers(
    cells: Cells | NDArray[Any], feature: NumericFeature, bounds: tuple[float, float], place: Place
) -> list[float]:
    """The column of a numeric feature, NaN where missing. In an array, [rows] of numbers, NaN is missing too.

    `bounds` are the feature's `number_bounds`, computed once.
    """
    low, high = bounds
    if isinstance(cells, np.ndarray):
        if (column := _whole_column(cells, low, high, feature.nullable)) is not None:
            return column
        cells = [None if math.isnan(cell) else cell for cell in cells.tolist()]
    values: list[float] = []
    for index, value in enumerate(cells):
        if type(value) is float or type(value) is int:
            if not low <= value <= high:
                raise place.broken(index, *_broken_range(value, feature))
            values.append(value)
        elif value is None and feature.nullable:
            values.append(math.nan)
        else:
            raise place.broken(index, "required" if value is None else "number", value, number_text(feature))
    return values


def _whole_column(cells: NDArray[Any], low: float, high: float, nullable: bool) -> list[float] | None:
    """The column, when all of it keeps the rules; None when a cell has to be named.

    The least and the greatest are compared as Python's numbers: numpy would round a large integer to compare it.
    """
    if cells.dtype.kind == "f" and (missing := np.isnan(cells)).any():
        if not nullable:
            return None
        cells = np.where(missing, np.nan, cells)  # any bytes may hold a signalling NaN, of which a later cast warns
    least, most = np.fmin.reduce(cells).item(), np.fmax.reduce(cells).item()
    return cells.tolist() if low <= least and most <= high else None


def _broken_range(value: float, feature: NumericFeature) -> tuple[str, object, str]:
    if feature.min is not None and value < feature.min:
        return "min", value, number_text(feature)
    if feature.max is not None and value > feature.max:
        return "max", value, number_text(feature)
    return "finite", value, f"a number that float32 holds: at most {LARGEST:.3g} in magnitude"


def number_text(feature: NumericFeature) -> str:
    """What a cell of the feature may hold."""
    low = "" if feature.min is None else f", at least {feature.min:g}"
    high = "" if feature.max is None else f", at most {feature.max:g}"
    return f"a number{low}{high}{' or null' if feature.nullable else ''}"


def categories(
    cells: Cells, feature: CategoricalFeature, lookup: dict[str, int], place: Place
) -> tuple[list[str | None], list[int]]:
    """The column of a categorical feature and its indexes, 0 where missing or unknown."""
    indexes: list[int] = []
    for index, value in enumerate(cells):
        found = lookup.get(value, 0) if type(value) is str else 0
        if not found and not _may_be_unknown(value, feature):
            rule = "required" if value is None else "category" if isinstance(value, str) else "string"
            raise place.broken(index, rule, value, near(value, lookup))
        indexes.append(found)
    return cells, indexes


def _may_be_unknown(value: object, feature: CategoricalFeature) -> bool:
    return feature.nullable if value is None else feature.open and isinstance(value, str)


def times(cells: Iterable[Any], place: Place) -> list[int]:
    """Microseconds since 1970; now, where a cell has no time."""
    now = _microseconds(datetime.now(UTC))
    return [now if cell is None else _time(cell, index, place) for index, cell in enumerate(cells)]


def _time(value: object, index: int, place: Place) -> int:
    if isinstance(value, str):
        try:
            moment = utc(datetime.fromisoformat(value))
        except (ValueError, OverflowError):
            raise place.broken(index, "ISO 8601 time", value, _TIME_RULE) from None
        if FIRST_TIME <= moment < LAST_TIME:
            return _microseconds(moment)
    raise place.broken(index, "ISO 8601 time", value, _TIME_RULE)


def moments(cells: Iterable[Any], place: Place) -> list[int]:
    """The same, of times that are whole numbers: microseconds since 1970 UTC."""
    now = _microseconds(datetime.now(UTC))
    found = [now if cell is None else int(cell) for cell in cells]
    for index, moment in enumerate(found):
        if not _FIRST <= moment < _LAST:
            raise place.broken(index, "time", moment, f"microseconds since 1970 UTC, from {_FIRST} to {_LAST - 1}")
    return found


def row_ids(cells: Iterable[Any], place: Place) -> list[str | None]:
    """The callers' names of the rows, where given."""
    found: list[str | None] = []
    for index, value in enumerate(cells):
        if value is not None and (type(value) not in (str, int) or len(str(value)) > MAX_ROW_ID_CHARS):
            allowed = f"a string of at most {MAX_ROW_ID_CHARS} characters, or a whole number"
            raise place.broken(index, "row id", value, allowed)
        found.append(None if value is None else str(value))
    return found


def request_id(value: object, index: int) -> str:
    """The id of the request that an outcome belongs to."""
    if isinstance(value, str) and REQUEST_ID.fullmatch(value):
        return value
    raise broken(f"/outcomes/{index}/request_id", "required" if value is None else "format", value, REQUEST_ID_RULE)


def row(value: object, index: int) -> int:
    """The row of that request, counted from 0."""
    if type(value) is int and 0 <= value <= MAX_ROW:
        return value
    raise broken(f"/outcomes/{index}/row", "row number", value, f"a whole number from 0 to {MAX_ROW}")


def label(value: Any, index: int, label: Label) -> float | str:
    """A label of the pipeline's kind: a number, or a string where labels are names."""
    field = f"/outcomes/{index}/label"
    if label.kind == "multiclass":
        if isinstance(value, str) and value in label.classes:
            return value
        raise broken(field, "class", value, near(value, label.classes))
    if label.positive is not None:
        if isinstance(value, str):
            return value
        raise broken(field, "string", value, f"a string; '{label.positive}' counts as 1")
    is_number = type(value) is int or type(value) is float
    if label.kind == "binary":
        if is_number and value in (0, 1):
            return float(value)
        raise broken(field, "binary label", value, "0 or 1")
    if is_number and -LARGEST <= value <= LARGEST:
        return float(value)
    raise broken(field, "number", value, "a finite number")
