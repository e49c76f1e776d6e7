"""Inference requests: the same rows as the JSON protocol gives, exact refusals, and no bytes that break it."""

from __future__ import annotations

import math
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.errors import RequestError, RequestTooLargeError
from millrace.open_inference import InferContract, InferRequest, RequestedOutput
from millrace.requests import ParsedRequest, RequestContract
from tests.unit.millrace.open_inference import wire
from tests.unit.millrace.open_inference.specs import FEATURES, NUMBERS, ROWS, by_name, given_rows, make_spec, tensor

SPEC = make_spec()
CONTRACT = InferContract(SPEC)


def decode(inputs: list[Any], contract: InferContract = CONTRACT, **members: Any) -> InferRequest:
    return contract.decode(*wire.request(inputs, **members))


def refusal(inputs: list[Any], contract: InferContract = CONTRACT, **members: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(inputs, contract, **members)
    assert caught.value.allowed
    assert caught.value.next
    return caught.value


def assert_same(found: ParsedRequest, expected: ParsedRequest) -> None:
    for name, array in expected.batch.items():
        np.testing.assert_array_equal(found.batch[name], array)
        assert found.batch[name].dtype == array.dtype
    assert list(found.columns) == list(expected.columns)
    for name, cells in expected.columns.items():
        assert type(found.columns[name]) is list
        np.testing.assert_equal(found.columns[name], cells)
    assert found.event_times == expected.event_times
    assert found.row_ids == expected.row_ids


texts = st.text(st.characters(codec="utf-8"), max_size=5)
moments = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)).map(lambda moment: moment.isoformat() + "Z")


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[Any]]:
    """Rows, and the inputs that hold them: each in JSON or binary, in a datatype that can hold it."""
    num_rows = draw(st.one_of(st.integers(1, 4), st.integers(30, 34)))

    def column(cells: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(cells, min_size=num_rows, max_size=num_rows))

    numbers: dict[str, tuple[str, list[Any]]] = {}
    for name, low, high in (("delay", -10, 10**6), ("wind", -(2**63), 2**64 - 1)):
        datatype = draw(st.sampled_from(["FP64", "FP32", "FP16", "BOOL", "INT8", "UINT8", "INT16", "INT64", "UINT64"]))
        if datatype == "BOOL":
            cells: st.SearchStrategy[Any] = st.booleans()
        elif "INT" in datatype:
            info = np.iinfo(datatype.lower())
            cells = st.integers(max(low, int(info.min)), min(high, int(info.max)))
        else:
            width = int(datatype[2:])
            bound = {16: 60000.0, 32: 1e6, 64: 1e6}[width]
            cells = st.floats(-8.0 if name == "delay" else -bound, bound, width=width)
        is_nullable = name == "wind" and datatype.startswith("FP")
        numbers[name] = datatype, column(st.none() | cells if is_nullable else cells)
    columns = {
        "delay": numbers["delay"][1],
        "carrier": column(st.sampled_from(["AA", "UA", "B6"])),
        "wind": numbers["wind"][1],
        "tail/no": column(st.none() | st.sampled_from(["N1", "N2"]) | texts.filter(bool)),
        "note": column(texts),
        "grade": column(st.sampled_from(["", "a", "ü", None])),
        "departs": column(moments),
        "flight": column(st.none() | texts.filter(bool)),
    }
    inputs = []
    for name in draw(st.permutations(list(columns))):
        cells = columns[name]
        datatype = numbers[name][0] if name in numbers else "BYTES"
        # What cannot be missing in binary data: '' is a grade of its own.
        binary = datatype == "FP16" or (draw(st.booleans()) and not (name == "grade" and None in cells))
        found = tensor(name, cells, binary=binary, datatype=datatype)
        if draw(st.booleans()):
            head = found[0] if isinstance(found, tuple) else found
            head["shape"] = [num_rows, 1]
            if "data" in head and draw(st.booleans()):
                head["data"] = [[cell] for cell in head["data"]]
        inputs.append(found)
    rows = [{name: cells[index] for name, cells in columns.items()} for index in range(num_rows)]
    for row in rows:
        for name in NUMBERS:
            row[name] = int(row[name]) if type(row[name]) is bool else row[name]
    return rows, inputs


@given(requests())
def test_the_rows_are_those_of_the_json_protocol(request: tuple[list[dict[str, Any]], list[Any]]) -> None:
    rows, inputs = request
    expected = RequestContract(SPEC).parse(orjson.dumps({"rows": rows}))
    assert_same(decode(inputs).rows, expected)


@given(cells=st.lists(st.integers(2**53 - 3, 2**53 + 3), min_size=32, max_size=34), top=st.booleans())
def test_large_whole_numbers_are_judged_exactly_by_the_array_too(cells: list[int], top: bool) -> None:
    bound = {"max" if top else "min": float(2**53)}
    contract = InferContract(make_spec(features={"size": {"kind": "numeric", **bound}}))
    wrong = [i for i, cell in enumerate(cells) if (cell > 2**53 if top else cell < 2**53)]
    inputs = [wire.binary_input("size", "INT64", cells)]
    if wrong:
        assert refusal(inputs, contract).field == f"/inputs/0/data/{wrong[0]}"
    else:
        assert decode(inputs, contract).rows.columns["size"] == cells


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("num_rows", [1, 40])
def test_what_is_missing(binary: bool, num_rows: int) -> None:
    rows = ROWS[:1] * num_rows
    empty = {name: tensor(name, [None] * num_rows, binary=binary) for name in ("wind", "tail/no", "departs", "flight")}
    for inputs in (given_rows(rows, **empty), given_rows(rows, **dict.fromkeys(empty))):
        found = decode(inputs).rows
        assert np.isnan(found.columns["wind"]).all()
        assert found.columns["tail/no"] == found.row_ids == [None] * num_rows
        assert abs(found.event_times[0] / 1e6 - datetime.now(UTC).timestamp()) < 60


def test_an_empty_text_is_a_value_where_the_contract_says_so() -> None:
    for binary in (False, True):
        found = decode(given_rows(ROWS, binary=binary)).rows
        assert found.columns["note"] == ["", "ok"]
        assert found.columns["grade"] == ["ü", ""]
        assert found.batch["categorical"][:, -1].tolist() == [3, 1]
        assert refusal(given_rows(ROWS, carrier=tensor("carrier", ["", "AA"], binary=binary))).rule == "category"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("num_rows", [1, 40])
def test_times_come_as_microseconds_too(binary: bool, num_rows: int) -> None:
    first = int((datetime(1678, 1, 1) - datetime(1970, 1, 1)) / timedelta(microseconds=1))
    times = [first + index for index in range(num_rows)]
    inputs = given_rows(ROWS[:1] * num_rows, departs=tensor("departs", times, binary=binary, datatype="INT64"))
    assert decode(inputs).rows.event_times == times
    last = int((datetime(2262, 1, 1) - datetime(1970, 1, 1)) / timedelta(microseconds=1))
    for wrong in (first - 1, last, -(2**63)):
        changed = tensor("departs", [*times[:-1], wrong], binary=binary, datatype="INT64")
        error = refusal(given_rows(ROWS[:1] * num_rows, departs=changed))
        assert (error.field.rpartition("/")[2], error.rule) == (str(num_rows - 1), "time")


def test_a_whole_number_time_that_is_null_is_now() -> None:
    found = decode(given_rows(ROWS, departs=wire.json_input("departs", "INT64", [None, 7]))).rows
    assert found.event_times[1] == 7
    assert abs(found.event_times[0] / 1e6 - datetime.now(UTC).timestamp()) < 60


def test_signalling_and_other_nans_are_missing() -> None:
    for size, code, datatype in ((4, "<I", "FP32"), (8, "<Q", "FP64"), (2, "<H", "FP16")):
        quiet = {4: 0x7FC00001, 8: 0x7FF8000000000001, 2: 0x7E01}[size]
        signalling = {4: 0x7F800001, 8: 0x7FF0000000000001, 2: 0x7C01}[size]
        for num_rows in (3, 40):
            head, data = wire.binary_input("wind", datatype, [1.0] * num_rows)
            data = struct.pack(code, quiet) + struct.pack(code, signalling) + data[2 * size :]
            found = decode(given_rows(ROWS[:1] * num_rows, wind=(head, data))).rows
            np.testing.assert_equal(found.columns["wind"], [math.nan, math.nan] + [1.0] * (num_rows - 2))
            assert np.isnan(found.batch["numeric"][:2, 1]).all()


@pytest.mark.parametrize(
    ("name", "datatype", "cell", "rule"),
    [
        ("delay", "FP64", None, "required"),
        ("delay", "FP64", True, "number"),
        ("delay", "FP64", "1", "number"),
        ("delay", "FP64", [1.0], "number"),
        ("delay", "FP64", {}, "number"),
        ("delay", "FP32", -11, "min"),
        ("delay", "FP64", 1e7, "max"),
        ("wind", "FP64", 1e39, "finite"),
        ("delay", "INT8", 128, "INT8"),
        ("delay", "UINT8", -1, "UINT8"),
        ("delay", "INT64", 1.5, "INT64"),
        ("delay", "INT32", True, "INT32"),
        ("delay", "BOOL", 1, "BOOL"),
        ("carrier", "BYTES", "AB", "category"),
        ("carrier", "BYTES", None, "required"),
        ("carrier", "BYTES", 3, "string"),
        ("tail/no", "BYTES", False, "string"),
        ("departs", "BYTES", "yesterday", "ISO 8601 time"),
        ("departs", "BYTES", 3, "ISO 8601 time"),
        ("departs", "INT64", 1.0, "INT64"),
        ("flight", "BYTES", 1.5, "row id"),
        ("flight", "BYTES", "x" * 257, "row id"),
    ],
)
def test_a_broken_cell_in_json_is_named(name: str, datatype: str, cell: Any, rule: str) -> None:
    first = True if datatype == "BOOL" else 7 if datatype == "INT64" and name == "departs" else ROWS[0][name]
    first = 1 if datatype in ("INT8", "UINT8", "INT32", "INT64") and name == "delay" else first
    for shape, wrap in (([2], False), ([2, 1], True)):
        cells = [first, cell] if not wrap else [[first], [cell]]
        inputs = given_rows(ROWS, **{name: wire.json_input(name, datatype, cells, shape=shape)})
        error = refusal(inputs)
        place = next(i for i, found in enumerate(inputs) if found["name"] == name)
        assert (error.field, error.rule) == (f"/inputs/{place}/data/1{'/0' if wrap else ''}", rule)
        assert f"({name})" in error.what


@pytest.mark.parametrize(
    ("name", "datatype", "cell", "rule"),
    [
        ("delay", "FP64", math.nan, "required"),
        ("delay", "FP32", math.inf, "max"),
        ("wind", "FP64", -math.inf, "finite"),
        ("wind", "FP16", math.inf, "finite"),
        ("delay", "FP64", 2e6, "max"),
        ("delay", "INT8", -11, "min"),
        ("delay", "UINT64", 2**64 - 1, "max"),
        ("carrier", "BYTES", b"AB", "category"),
        ("carrier", "BYTES", b"\xff", "UTF-8"),
        ("carrier", "BYTES", b"\xed\xa0\x80", "UTF-8"),
        ("note", "BYTES", b"\xc3", "UTF-8"),
        ("departs", "BYTES", b"soon", "ISO 8601 time"),
        ("flight", "BYTES", b"x" * 257, "row id"),
    ],
)
@pytest.mark.parametrize("num_rows", [2, 40])
def test_a_broken_cell_in_binary_is_named(name: str, datatype: str, cell: Any, rule: str, num_rows: int) -> None:
    good = 1 if name in NUMBERS else ROWS[0][name]
    cells = [good] * (num_rows - 1) + [cell]
    inputs = given_rows(ROWS[:1] * num_rows, **{name: wire.binary_input(name, datatype, cells)})
    error = refusal(inputs)
    place = next(i for i, found in enumerate(inputs) if isinstance(found, tuple))
    assert (error.field, error.rule) == (f"/inputs/{place}/data/{num_rows - 1}", rule)
    assert f"({name})" in error.what


@pytest.mark.parametrize("num_rows", [2, 40])
def test_a_boolean_is_one_byte_of_0_or_1(num_rows: int) -> None:
    head, data = wire.binary_input("delay", "BOOL", [True] * num_rows)
    assert decode(given_rows(ROWS[:1] * num_rows, delay=(head, data))).rows.columns["delay"] == [1] * num_rows
    error = refusal(given_rows(ROWS[:1] * num_rows, delay=(head, data[:-1] + b"\x02")))
    assert (error.field, error.rule) == (f"/inputs/0/data/{num_rows - 1}", "BOOL")


def changed(**members: Any) -> dict[str, Any]:
    """The input `delay` with other members; None takes one out."""
    found = wire.json_input("delay", "FP64", [1.0, 2.0]) | members
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("delay", "field", "rule"),
    [
        (None, "/inputs", "required"),
        (7, "/inputs/0", "object"),
        (changed(name=None), "/inputs/0/name", "required"),
        (changed(name="dely"), "/inputs/0/name", "unknown input"),
        (changed(name=["delay"]), "/inputs/0/name", "unknown input"),
        (changed(name="x" * 5000), "/inputs/0/name", "unknown input"),
        (changed(extra=1), "/inputs/0/extra", "unknown key"),
        (changed(datatype=None), "/inputs/0/datatype", "required"),
        (changed(datatype="BYTES"), "/inputs/0/datatype", "datatype"),
        (changed(datatype="fp64"), "/inputs/0/datatype", "datatype"),
        (changed(datatype={}), "/inputs/0/datatype", "datatype"),
        (changed(datatype="FP16"), "/inputs/0/data", "FP16"),
        (changed(shape=None), "/inputs/0/shape", "required"),
        (changed(shape=2), "/inputs/0/shape", "shape"),
        (changed(shape=[]), "/inputs/0/shape", "shape"),
        (changed(shape=[0]), "/inputs/0/shape", "shape"),
        (changed(shape=[-2]), "/inputs/0/shape", "shape"),
        (changed(shape=[True]), "/inputs/0/shape", "shape"),
        (changed(shape=[2.0]), "/inputs/0/shape", "shape"),
        (changed(shape=[2, 2]), "/inputs/0/shape", "shape"),
        (changed(shape=[2, 0]), "/inputs/0/shape", "shape"),
        (changed(shape=[2, True]), "/inputs/0/shape", "shape"),
        (changed(shape=[2, 1, 1]), "/inputs/0/shape", "shape"),
        (changed(shape=[2**62, 4]), "/inputs/0/shape", "shape"),
        (changed(shape=[1]), "/inputs/0/data", "shape"),
        (changed(data=None), "/inputs/0/data", "required"),
        (changed(data=7), "/inputs/0/data", "list"),
        (changed(data={"0": 1}), "/inputs/0/data", "list"),
        (changed(data=[1.0]), "/inputs/0/data", "shape"),
        (changed(data=[1.0, 2.0, 3.0]), "/inputs/0/data", "shape"),
        (changed(data=[[1.0], [2.0]]), "/inputs/0/data/0", "number"),
        (changed(shape=[2, 1], data=[[1.0], 2.0]), "/inputs/0/data/1", "shape"),
        (changed(shape=[2, 1], data=[[1.0], []]), "/inputs/0/data/1", "shape"),
        (changed(shape=[2, 1], data=[[1.0], [2.0, 3.0]]), "/inputs/0/data/1", "shape"),
        (changed(parameters=[]), "/inputs/0/parameters", "object"),
        (changed(parameters={"shared_memory_region": "r"}), "/inputs/0/parameters/shared_memory_region", "extension"),
        (changed(parameters={"binary_data_size": 16}), "/inputs/0/data", "binary_data_size"),
        (
            changed(data=None, parameters={"binary_data_size": 16}),
            "/inputs/0/parameters/binary_data_size",
            "binary_data_size",
        ),
    ],
)
def test_a_broken_input_is_named(delay: Any, field: str, rule: str) -> None:
    error = refusal(given_rows(ROWS, delay=delay))
    assert (error.field, error.rule) == (field, rule)
    assert len(str(error)) < 800


def test_all_inputs_have_as_many_rows_and_come_once() -> None:
    error = refusal(given_rows(ROWS, carrier=wire.json_input("carrier", "BYTES", ["AA"])))
    assert (error.field, error.rule, error.got) == ("/inputs/1/shape/0", "shape", "1")
    error = refusal([*given_rows(ROWS), changed()])
    assert (error.field, error.rule) == (f"/inputs/{len(ROWS[0])}/name", "duplicate")


def test_parameters_that_nobody_defined_are_ignored() -> None:
    content = {"content_type": "np", "priority": 3}
    delay = tensor("delay", by_name(ROWS, "delay")) | {"parameters": content}
    found = decode(given_rows(ROWS, delay=delay), parameters=content, outputs=None)
    assert_same(found.rows, decode(given_rows(ROWS)).rows)


@pytest.mark.parametrize(
    ("members", "field", "rule"),
    [
        ({"id": 7}, "/id", "id"),
        ({"id": "x" * 257}, "/id", "id"),
        ({"model_name": "other"}, "/model_name", "model"),
        ({"input": []}, "/input", "unknown key"),
        ({"parameters": 7}, "/parameters", "object"),
        ({"parameters": {"binary_data_output": 1}}, "/parameters/binary_data_output", "boolean"),
        ({"parameters": {"sequence_id": 3}}, "/parameters/sequence_id", "extension"),
        ({"outputs": {}}, "/outputs", "list"),
        ({"outputs": ["probability"]}, "/outputs/0", "object"),
        ({"outputs": [{}]}, "/outputs/0/name", "required"),
        ({"outputs": [{"name": "value"}]}, "/outputs/0/name", "unknown output"),
        ({"outputs": [{"name": ["probability"]}]}, "/outputs/0/name", "unknown output"),
        ({"outputs": [{"name": "probability", "data": []}]}, "/outputs/0/data", "unknown key"),
        ({"outputs": [{"name": "probability"}] * 2}, "/outputs/1/name", "duplicate"),
        (
            {"outputs": [{"name": "probability", "parameters": {"binary_data": "yes"}}]},
            "/outputs/0/parameters/binary_data",
            "boolean",
        ),
        (
            {"outputs": [{"name": "probability", "parameters": {"classification": 2}}]},
            "/outputs/0/parameters/classification",
            "extension",
        ),
    ],
)
def test_a_broken_member_is_named(members: dict[str, Any], field: str, rule: str) -> None:
    error = refusal(given_rows(ROWS), **members)
    assert (error.field, error.rule) == (field, rule)


def test_outputs_are_answered_as_asked() -> None:
    contract = InferContract(make_spec("multiclass"))
    inputs = given_rows(ROWS)
    both = RequestedOutput("class", False), RequestedOutput("probabilities", False)
    assert decode(inputs, contract).outputs == both
    assert decode(inputs, contract, outputs=[]).outputs == both
    assert decode(inputs, contract, id="mine", model_name="tiny").id == "mine"
    binary = {"parameters": {"binary_data_output": True}}
    assert [output.binary for output in decode(inputs, contract, **binary).outputs] == [True, True]
    asked = [{"name": "probabilities"}, {"name": "class", "parameters": {"binary_data": False}}]
    assert decode(inputs, contract, outputs=asked, **binary).outputs == (
        RequestedOutput("probabilities", True),
        RequestedOutput("class", False),
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 1500, b'{"inputs": [{"shape": [NaN]}]}'])
def test_a_broken_body_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        CONTRACT.decode(body)
    assert caught.value.field == ""


def test_inputs_are_a_list_of_at_least_one() -> None:
    for body in (b"{}", b'{"inputs": []}', b'{"inputs": {}}', b'{"inputs": null}'):
        with pytest.raises(RequestError) as caught:
            CONTRACT.decode(body)
        assert (caught.value.field, caught.value.rule) == ("/inputs", "list of at least one")


@pytest.mark.parametrize(
    "header", [b"", b"0", b"-1", b"+5", b"1e3", b" 7", b"\xb2", b"9" * 19, b"9" * 5000, b"0x10", b"1.5"]
)
def test_the_header_is_a_length_within_the_body(header: bytes) -> None:
    body, good = wire.request(given_rows(ROWS, binary=True))
    assert good is not None
    with pytest.raises(RequestError) as caught:
        CONTRACT.decode(body, header)
    assert (caught.value.field, caught.value.rule) == ("inference-header-content-length", "length")
    with pytest.raises(RequestError):
        CONTRACT.decode(body, str(len(body) + 1).encode())
    CONTRACT.decode(body, b"000" + good)


def test_a_header_is_needed_for_binary_data_and_harmless_without() -> None:
    body, header = wire.request(given_rows(ROWS, binary=True))
    with pytest.raises(RequestError, match="no JSON"):
        CONTRACT.decode(body)
    assert header is not None
    with pytest.raises(RequestError) as caught:
        CONTRACT.decode(body[: int(header)], header)
    assert caught.value.rule == "binary_data_size"
    assert caught.value.next == "send the header inference-header-content-length, or the data in JSON"
    body, header = wire.request(given_rows(ROWS))
    assert header is None
    assert_same(CONTRACT.decode(body, str(len(body)).encode()).rows, CONTRACT.decode(body).rows)


@pytest.mark.parametrize("size", [-1, 15, 17, 0, 2**63, 1e3, True, "16", [16]])
def test_sizes_are_those_of_the_tensors(size: Any) -> None:
    head, data = wire.binary_input("delay", "FP64", [1.0, 2.0])
    error = refusal(given_rows(ROWS, delay=(head | {"parameters": {"binary_data_size": size}}, data)))
    assert (error.field, error.rule) == ("/inputs/0/parameters/binary_data_size", "binary_data_size")


def test_more_or_less_binary_data_than_declared_is_refused() -> None:
    body, header = wire.request(given_rows(ROWS, binary=True))
    for wrong in (body + b"\x00", body[:-1]):
        with pytest.raises(RequestError) as caught:
            CONTRACT.decode(wrong, header)
        assert caught.value.rule == "binary_data_size"


@pytest.mark.parametrize(
    ("data", "index", "rule"),
    [
        (b"", 0, "binary_data_size"),
        (b"\x02\x00\x00", 0, "binary_data_size"),
        (b"\x02\x00\x00\x00AA", 1, "binary_data_size"),
        (b"\x03\x00\x00\x00AA", 0, "binary_data_size"),
        (b"\xff\xff\xff\xffAA", 0, "binary_data_size"),
        (b"\x02\x00\x00\x00AA\xff\xff\xff\x7f", 1, "binary_data_size"),
        (b"\x02\x00\x00\x00AA\x02\x00\x00\x00UAmore", 2, "shape"),
    ],
)
@pytest.mark.parametrize("more", [False, True])
def test_texts_fill_their_bytes(data: bytes, index: int, rule: str, more: bool) -> None:
    """Also where another tensor's bytes follow, which a length that is too great would reach into."""
    head = {"name": "carrier", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    inputs = given_rows(ROWS, carrier=(head, data))
    if more:
        inputs[2] = tensor("wind", [None, 0.25], binary=True)
    error = refusal(inputs)
    assert (error.field, error.rule) == (f"/inputs/1/data/{index}", rule)


def test_size_is_bounded() -> None:
    contract = InferContract(make_spec(max_rows=5, max_body_bytes=2000))
    with pytest.raises(RequestTooLargeError, match="too large"):
        contract.decode(b" " * 2001)
    for rows in (6, 2**62):
        error = refusal([changed(shape=[rows], data=[1.0])], contract)
        assert isinstance(error, RequestTooLargeError)
        assert (error.field, error.rule, error.allowed) == ("/inputs/0/shape/0", "serving.max_rows", "at most 5")
    found = decode([wire.binary_input("delay", "INT8", [1] * 5)], InferContract(_narrow(max_rows=5)))
    assert found.rows.num_rows == 5


def _narrow(**serving: Any) -> Any:
    return make_spec(features={"delay": FEATURES["delay"]}, **serving)
