"""The request contract: what a prediction request and an outcome report may hold, compiled once from the spec.

A request that keeps the contract is decoded in one pass (`millrace.row_decoder`). One that does not is checked cell by
cell, so that the error names the first one that breaks a rule. What leaves `parse` is the batch that
`millrace.encoding.encode` would give for the same rows, so training and serving cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from millrace import request_values
from millrace.errors import RequestError, RequestTooLargeError
from millrace.request_values import Place, broken, escape, near
from millrace.row_decoder import RowDecoder
from millrace.spec import CategoricalFeature, NumericFeature, PipelineSpec

_KNOWN_AT = Place("/outcomes/", "/known_at")


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request that keeps the contract.

    `columns` holds the raw values per feature, a missing number as NaN and a missing category as None.
    """

    batch: dict[str, NDArray[Any]]
    columns: dict[str, list[Any]]
    event_times: list[int]
    """Microseconds since 1970 UTC, one a row."""
    row_ids: list[str | None]

    @property
    def num_rows(self) -> int:
        return len(self.event_times)


@dataclass(frozen=True, slots=True)
class ParsedOutcomes:
    """Labels that became known, column by column; times are microseconds since 1970 UTC."""

    request_ids: list[str]
    rows: list[int]
    labels: list[float | str]
    known_at: list[int]


class RequestContract:
    """What callers of one pipeline may send. Building it checks nothing; `parse` and `parse_outcomes` do."""

    def __init__(self, spec: PipelineSpec) -> None:
        data = spec.table
        self.max_rows = spec.serving.max_rows
        self.max_body_bytes = spec.serving.max_body_bytes
        self._data = data
        self._decoder = RowDecoder(spec)
        self._numeric = [
            (n, f, request_values.number_bounds(f)) for n, f in data.features.items() if isinstance(f, NumericFeature)
        ]
        self._categorical = [
            (n, f, {value: index + 1 for index, value in enumerate(f.values)})
            for n, f in data.features.items()
            if isinstance(f, CategoricalFeature)
        ]
        self._places = {
            name: Place("/rows/", f"/{escape(name)}") for name in (*data.features, data.event_time, data.row_id)
        }

    def parse(self, body: bytes) -> ParsedRequest:
        """The rows of a prediction request, encoded for the model.

        Raises:
            RequestError: the body breaks the contract; `field` points at the first place that does.
            RequestTooLargeError: more bytes or rows than `serving` allows.
        """
        if len(body) <= self.max_body_bytes and (decoded := self._decoder.decode(body)) is not None:
            batch, columns = decoded
        else:
            batch, columns = self._by_cell(body)
        event_time, row_id = self._data.event_time, self._data.row_id
        return ParsedRequest(
            batch=batch,
            event_times=request_values.times(columns.pop(event_time), self._places[event_time]),
            row_ids=request_values.row_ids(columns.pop(row_id), self._places[row_id]),
            columns=columns,
        )

    def _by_cell(self, body: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, list[Any]]]:
        rows = self._items(body, "rows")
        for index, row in enumerate(rows):
            if not self._places.keys() >= row.keys():
                name = next(key for key in row if key not in self._places)
                raise broken(f"/rows/{index}/{escape(name)}", "unknown key", name, near(name, self._places))
        given = {name: [row.get(name) for row in rows] for name in self._places}
        batch, columns = self.features(given, self._places)
        return batch, columns | {name: given[name] for name in (self._data.event_time, self._data.row_id)}

    def features(
        self, given: Mapping[str, Any], places: Mapping[str, Place]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, list[Any]]]:
        """The batch and the columns of a `ParsedRequest`, whatever protocol the cells came by.

        `given` has a list of the cells of each feature, at least one and as many each; of numbers, also an array.

        Raises:
            RequestError: a cell breaks the contract; `places` says where it stands.
        """
        num_rows = len(next(iter(given.values())))
        columns: dict[str, list[Any]] = {}
        numbers = np.empty((num_rows, len(self._numeric)), np.float32)
        for position, (name, number, bounds) in enumerate(self._numeric):
            columns[name] = values = request_values.numbers(given[name], number, bounds, places[name])
            # By way of float64, as tables hold numbers: an int64 would be rounded differently.
            numbers[:, position] = np.asarray(values, np.float64)
        indexes = np.empty((num_rows, len(self._categorical)), np.int64)
        for position, (name, category, lookup) in enumerate(self._categorical):
            cells = given[name]
            columns[name], indexes[:, position] = request_values.categories(cells, category, lookup, places[name])
        return {"numeric": numbers, "categorical": indexes}, columns

    def parse_outcomes(self, body: bytes) -> ParsedOutcomes:
        """The labels of an outcome report.

        Raises:
            RequestError: the body breaks the contract; `field` points at the first place that does.
            RequestTooLargeError: more bytes or outcomes than `serving` allows.
        """
        items = self._items(body, "outcomes")
        allowed = ("request_id", "row", "label", "known_at")
        for index, item in enumerate(items):
            for name in item:
                if name not in allowed:
                    raise broken(f"/outcomes/{index}/{escape(name)}", "unknown key", name, near(name, allowed))
        return ParsedOutcomes(
            request_ids=[request_values.request_id(item.get("request_id"), index) for index, item in enumerate(items)],
            rows=[request_values.row(item.get("row", 0), index) for index, item in enumerate(items)],
            labels=[
                request_values.label(item.get("label"), index, self._data.label) for index, item in enumerate(items)
            ],
            known_at=request_values.times([item.get("known_at") for item in items], _KNOWN_AT),
        )

    def _items(self, body: bytes, key: str) -> list[dict[str, Any]]:
        """The list of objects under `key`, the only key of the body."""
        if len(body) > self.max_body_bytes:
            raise too_large(len(body), self.max_body_bytes)
        document = read_json(body)
        if not isinstance(document, dict):
            raise broken("", "object", document, f'{{"{key}": [...]}}')
        for name in document:
            if name != key:
                raise broken(f"/{escape(name)}", "unknown key", name, f"'{key}'")
        items = document.get(key)
        if not isinstance(items, list) or not items:
            raise broken(f"/{key}", "list of at least one", items, f"a list of 1 to {self.max_rows} objects")
        if len(items) > self.max_rows:
            raise too_many(f"/{key}", len(items), self.max_rows)
        for index, item in enumerate(items):
            if type(item) is not dict:
                raise broken(f"/{key}/{index}", "object", item, "an object")
        return items


def read_json(body: bytes) -> Any:
    """The value that `body` holds.

    Raises:
        RequestError: it is no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(
            "the body is no JSON", rule="JSON", got=str(error), allowed="JSON in UTF-8", next="correct the body"
        ) from None


def too_many(field: str, num_rows: int, max_rows: int) -> RequestTooLargeError:
    """The error for more than `max_rows` rows or outcomes under `field`."""
    return RequestTooLargeError(
        f"{field} has too many items",
        field=field,
        rule="serving.max_rows",
        got=num_rows,
        allowed=f"at most {max_rows}",
        next="send them in several requests",
    )


def too_large(num_bytes: int | None, max_bytes: int) -> RequestTooLargeError:
    """The error for a body of more than `max_bytes`."""
    return RequestTooLargeError(
        "the body is too large",
        rule="serving.max_body_bytes",
        got=num_bytes,
        allowed=f"at most {max_bytes} bytes",
        next="send fewer rows a request",
    )
