"""The checks of single values in a request; `millrace.requests` applies them to whole bodies.

Each check answers the value in the form that is stored, or raises a `RequestError` whose `field` is a JSON pointer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from millrace.errors import RequestError, nearest, shorten
from millrace.spec import CategoricalFeature, Label, NumericFeature
from millrace.window import FIRST_TIME, LAST_TIME, utc

Items = list[dict[str, Any]]

#: What a caller's request id may look like: safe in a header, a log line and a file name.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
REQUEST_ID_RULE = "1 to 128 letters, digits, '.', '_', ':' or '-'"

_MAX_SHOWN_CHARS = 64
_MAX_ROW_ID_CHARS = 256
_MAX_ROW = 2**31 - 1
# A larger float64 becomes infinite in the model's float32.
_LARGEST = float(np.finfo(np.float32).max)
_TIME_RULE = "a time such as 2013-06-01T12:00:00Z, from 1678 to 2261"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def broken(field: str, rule: str, got: object, allowed: str) -> RequestError:
    """The error for the value under `field`."""
    where = field or "the body"
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


def numbers(rows: Items, name: str, feature: NumericFeature) -> list[float]:
    """The column of a numeric feature, NaN where missing."""
    low = -_LARGEST if feature.min is None else max(feature.min, -_LARGEST)
    high = _LARGEST if feature.max is None else min(feature.max, _LARGEST)
    values: list[float] = []
    for index, row in enumerate(rows):
        value = row.get(name)
        if type(value) is float or type(value) is int:
            if not low <= value <= high:
                raise broken(f"/rows/{index}/{escape(name)}", *_broken_range(value, feature))
            values.append(value)
        elif value is None and feature.nullable:
            values.append(math.nan)
        else:
            rule = "required" if value is None else "number"
            raise broken(f"/rows/{index}/{escape(name)}", rule, value, _number_text(feature))
    return values


def _broken_range(value: float, feature: NumericFeature) -> tuple[str, object, str]:
    if feature.min is not None and value < feature.min:
        return "min", value, _number_text(feature)
    if feature.max is not None and value > feature.max:
        return "max", value, _number_text(feature)
    return "finite", value, f"a number that float32 holds: at most {_LARGEST:.3g} in magnitude"


def _number_text(feature: NumericFeature) -> str:
    low = "" if feature.min is None else f", at least {feature.min:g}"
    high = "" if feature.max is None else f", at most {feature.max:g}"
    return f"a number{low}{high}{' or null' if feature.nullable else ''}"


def categories(
    rows: Items, name: str, feature: CategoricalFeature, lookup: dict[str, int]
) -> tuple[list[str | None], list[int]]:
    """The column of a categorical feature and its indexes, 0 where missing or unknown."""
    values: list[str | None] = []
    indexes: list[int] = []
    for index, row in enumerate(rows):
        value = row.get(name)
        found = lookup.get(value, 0) if type(value) is str else 0
        if not found and not _may_be_unknown(value, feature):
            rule = "required" if value is None else "category" if isinstance(value, str) else "string"
            known = near(value, lookup)
            raise broken(f"/rows/{index}/{escape(name)}", rule, value, known)
        values.append(value)
        indexes.append(found)
    return values, indexes


def _may_be_unknown(value: object, feature: CategoricalFeature) -> bool:
    return feature.nullable if value is None else feature.open and isinstance(value, str)


def times(items: Items, key: str, name: str) -> list[int]:
    """Microseconds since 1970; now, where an item has no time."""
    now = _microseconds(datetime.now(UTC))
    return [
        now if (value := item.get(name)) is None else _time(value, f"/{key}/{index}/{escape(name)}")
        for index, item in enumerate(items)
    ]


def _time(value: object, field: str) -> int:
    if isinstance(value, str):
        try:
            moment = utc(datetime.fromisoformat(value))
        except (ValueError, OverflowError):
            raise broken(field, "ISO 8601 time", value, _TIME_RULE) from None
        if FIRST_TIME <= moment < LAST_TIME:
            return _microseconds(moment)
    raise broken(field, "ISO 8601 time", value, _TIME_RULE)


def _microseconds(moment: datetime) -> int:
    distance = moment - _EPOCH
    return (distance.days * 86_400 + distance.seconds) * 1_000_000 + distance.microseconds


def row_ids(rows: Items, name: str) -> list[str | None]:
    """The callers' names of the rows, where given."""
    found: list[str | None] = []
    for index, row in enumerate(rows):
        value = row.get(name)
        if value is not None and (type(value) not in (str, int) or len(str(value)) > _MAX_ROW_ID_CHARS):
            allowed = f"a string of at most {_MAX_ROW_ID_CHARS} characters, or a whole number"
            raise broken(f"/rows/{index}/{escape(name)}", "row id", value, allowed)
        found.append(None if value is None else str(value))
    return found


def request_id(value: object, index: int) -> str:
    """The id of the request that an outcome belongs to."""
    if isinstance(value, str) and REQUEST_ID.fullmatch(value):
        return value
    raise broken(f"/outcomes/{index}/request_id", "required" if value is None else "format", value, REQUEST_ID_RULE)


def row(value: object, index: int) -> int:
    """The row of that request, counted from 0."""
    if type(value) is int and 0 <= value <= _MAX_ROW:
        return value
    raise broken(f"/outcomes/{index}/row", "row number", value, f"a whole number from 0 to {_MAX_ROW}")


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
    if is_number and -_LARGEST <= value <= _LARGEST:
        return float(value)
    raise broken(field, "number", value, "a finite number")
