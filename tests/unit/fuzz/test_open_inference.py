"""Whatever comes as an inference request, JSON and binary data: rows that keep the contract, or an error of ours."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from millrace.errors import RequestError, UnknownNameError
from millrace.open_inference import InferContract, find_route, require_served
from tests.unit.fuzz.material import mangled, mutated, texts
from tests.unit.millrace.open_inference import wire
from tests.unit.millrace.open_inference.specs import NUMBERS, ROWS, given_rows, make_spec

CONTRACT = InferContract(make_spec())
_GOOD = json.loads(wire.request(given_rows(ROWS), outputs=[{"name": "probability"}], id="7")[0])
_BINARY, _LENGTH = wire.request(given_rows(ROWS * 20, binary=True), outputs=[{"name": "probability"}])
_headers = st.none() | st.just(_LENGTH) | st.binary(max_size=25) | st.integers(0, 3000).map(lambda n: str(n).encode())


def assert_only_ours(body: bytes, header: bytes | None) -> None:
    with contextlib.suppress(RequestError):
        rows = CONTRACT.decode(body, header).rows
        assert not np.isinf(rows.batch["numeric"]).any()
        assert {len(cells) for cells in rows.columns.values()} == {rows.num_rows} == {len(rows.row_ids)}


@given(body=mangled(_BINARY) | mangled(json.dumps(_GOOD).encode()) | st.binary(max_size=300), header=_headers)
@example(body=_BINARY, header=b"9" * 30)
def test_any_bytes_give_a_request_or_a_request_error(body: bytes, header: bytes | None) -> None:
    assert_only_ours(body, header)


@given(mutated(_GOOD))
def test_any_document_gives_a_request_or_a_request_error(document: Any) -> None:
    # Python's writer, not ours: it writes NaN, infinities and lone surrogates.
    assert_only_ours(json.dumps(document).encode(), None)


@given(document=mutated(json.loads(_BINARY[: int(_LENGTH or b"0")])))
def test_any_document_before_binary_data_does_too(document: Any) -> None:
    head = json.dumps(document).encode()
    assert_only_ours(head + _BINARY[int(_LENGTH or b"0") :], str(len(head)).encode())


@given(data=st.data(), num_rows=st.sampled_from([1, 3, 33]))
def test_any_binary_data_of_the_right_size_does_too(data: st.DataObject, num_rows: int) -> None:
    name = data.draw(st.sampled_from(["delay", "wind", "carrier", "note", "departs", "flight"]))
    datatypes = list(wire.CODES) if name in NUMBERS else ["BYTES", "INT64"] if name == "departs" else ["BYTES"]
    datatype = data.draw(st.sampled_from(datatypes))
    head, good = wire.binary_input(name, datatype, [1 if datatype != "BYTES" else "UA"] * num_rows)
    if datatype == "BYTES":
        raw = data.draw(mangled(good) | st.binary(max_size=60))
    else:
        raw = data.draw(st.binary(min_size=len(good), max_size=len(good)))
    head["parameters"]["binary_data_size"] = len(raw)
    assert_only_ours(*wire.request(given_rows(ROWS[:1] * num_rows, **{name: (head, raw)})))


@given(st.lists(texts | st.sampled_from(["", "v2", "models", "versions", "infer", "tiny"]), max_size=8).map("/".join))
def test_any_path_is_a_route_or_none(path: str) -> None:
    if (route := find_route(path)) is not None:
        with contextlib.suppress(UnknownNameError):
            require_served(route, "tiny", "3")
            assert route.model in (None, "tiny")
