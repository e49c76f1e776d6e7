"""The fast way and the slow way through a request: where the fast one takes it, both come to the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import MillraceError
from millrace.requests import RequestContract
from millrace.row_decoder import RowDecoder
from tests.unit.millrace.test_requests import ROW, spec

FEATURES = {
    "plain": {"kind": "numeric"},
    "bounded": {"kind": "numeric", "min": -5.0, "max": 10.0},
    "maybe": {"kind": "numeric", "nullable": True},
    "closed": {"kind": "categorical", "values": ["a", "b"]},
    "open": {"kind": "categorical", "values": ["a"], "open": True},
    "rare ~/é": {"kind": "categorical", "values": ["x"], "nullable": True},
}
SPEC = spec(features=FEATURES, max_rows=4)
CONTRACT, DECODER = RequestContract(SPEC), RowDecoder(SPEC)

_text = st.sampled_from(["a", "b", "x", "2024-01-01T00:00:00Z"]) | st.text(max_size=5)
_cells = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-5, 10)
    | _text
    | st.lists(st.integers(), max_size=1)
)
_good = {
    "plain": st.floats(-1e6, 1e6) | st.integers(-9, 9),
    "bounded": st.floats(-5, 10),
    "closed": st.sampled_from(["a", "b"]),
    "open": _text,
}
_maybe = {
    "maybe": st.none() | st.floats(-1, 1),
    "rare ~/é": st.sampled_from(["x", None]),
    "departs": st.just("2024-01-01T00:00:00Z"),
    "flight": st.none() | st.integers(0, 9) | st.text(max_size=3),
}
_names = [*FEATURES, "departs", "flight", "unknown"]
_good_rows = st.fixed_dictionaries(_good, optional=_maybe)
_rows = _good_rows | st.builds(
    lambda row, more: row | more, _good_rows, st.dictionaries(st.sampled_from(_names), _cells, max_size=2)
)


@given(st.lists(_rows, max_size=5))
def test_what_the_fast_way_takes_the_slow_way_takes_too(rows: list[dict[str, Any]]) -> None:
    body = json.dumps({"rows": rows}).encode()
    decoded = DECODER.decode(body)
    if decoded is None:
        return
    batch, columns = decoded
    slow_batch, slow_columns = CONTRACT._by_cell(body)
    for name in ("numeric", "categorical"):
        assert batch[name].dtype == slow_batch[name].dtype
        np.testing.assert_array_equal(batch[name], slow_batch[name])
    assert columns.keys() == slow_columns.keys()
    for name in columns:
        np.testing.assert_array_equal(columns[name], slow_columns[name])


@given(st.lists(_good_rows, min_size=1, max_size=4))
def test_what_keeps_the_contract_goes_the_fast_way(rows: list[dict[str, Any]]) -> None:
    assert DECODER.decode(json.dumps({"rows": rows}).encode()) is not None


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda t: b'{"rows":[{"open":"' + t.encode() + b'"}]}'))
def test_any_bytes_are_taken_or_left(body: bytes) -> None:
    decoded = DECODER.decode(body)
    if decoded is not None:
        CONTRACT._by_cell(body)


@pytest.mark.parametrize(
    "text", [b'"\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b"1e400", b"NaN", b"-Infinity", b"true", b'"1"', b"[]"]
)
def test_no_odd_cell_gets_in_by_the_fast_way(text: bytes) -> None:
    for name in FEATURES:
        cells = {"plain": b"1", "bounded": b"1", "closed": b'"a"', "open": b'"a"'} | {name: text}
        row = b",".join(json.dumps(key).encode() + b":" + value for key, value in cells.items())
        body = b'{"rows":[{' + row + b"}]}"
        try:
            CONTRACT._by_cell(body)
        except MillraceError:
            assert DECODER.decode(body) is None


def test_a_contract_without_numbers_or_without_categories() -> None:
    for features in ({"delay": {"kind": "numeric"}}, {"carrier": {"kind": "categorical", "values": ["UA"]}}):
        body = json.dumps({"rows": [{name: ROW[name] for name in features}] * 2}).encode()
        decoder, contract = RowDecoder(spec(features=features)), RequestContract(spec(features=features))
        decoded = decoder.decode(body)
        assert decoded is not None
        slow, _ = contract._by_cell(body)
        assert {name: array.shape for name, array in decoded[0].items()} == {n: a.shape for n, a in slow.items()}
