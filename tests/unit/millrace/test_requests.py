"""The request contract: equal to the training encoding, exact in its refusals, unbreakable by any bytes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.encoding import encode
from millrace.errors import RequestError, RequestTooLargeError
from millrace.request_values import check_request_id
from millrace.requests import RequestContract
from millrace.spec import PipelineSpec
from millrace.spec.load import parse_spec

FEATURES: dict[str, Any] = {
    "delay": {"kind": "numeric", "min": -10.0, "max": 1e6},
    "wind": {"kind": "numeric", "nullable": True},
    "carrier": {"kind": "categorical", "values": ["AA", "UA", "B6"]},
    "tail/no": {"kind": "categorical", "values": ["N1", "N2"], "open": True, "nullable": True},
}
ROW = {"delay": 1.5, "wind": None, "carrier": "UA", "tail/no": "N9"}


def spec(label: dict[str, Any] | None = None, features: dict[str, Any] | None = None, **serving: Any) -> PipelineSpec:
    label = {"column": "late", "kind": "binary"} | (label or {})
    metric = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}[label["kind"]]
    return parse_spec(
        {
            "name": "tiny",
            "data": {
                "source": "source:S",
                "event_time": "departs",
                "row_id": "flight",
                "features": features or FEATURES,
                "label": label,
            },
            "evaluation": {"metric": metric},
            "serving": serving,
        }
    )


CONTRACT = RequestContract(spec(max_rows=5, max_body_bytes=2000))


def refusal(document: object, contract: RequestContract = CONTRACT) -> RequestError:
    with pytest.raises(RequestError) as caught:
        contract.parse(orjson.dumps(document))
    return caught.value


numbers = st.one_of(
    st.floats(min_value=-1e30, max_value=1e30, allow_nan=False), st.integers(min_value=-(2**63), max_value=2**64 - 1)
)
rows_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "delay": st.one_of(st.floats(-10, 1e6), st.integers(-10, 10**6)),
            "carrier": st.sampled_from(["AA", "UA", "B6"]),
        },
        optional={
            "wind": st.none() | numbers,
            "tail/no": st.none() | st.sampled_from(["N1", "N2"]) | st.text(max_size=5),
        },
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(rows_strategy)
def test_a_request_is_encoded_as_training_encodes_the_same_rows(rows: list[dict[str, Any]]) -> None:
    contract = spec()
    body = orjson.dumps({"rows": rows})
    parsed = RequestContract(contract).parse(body)
    table = pd.DataFrame(orjson.loads(body)["rows"], columns=list(FEATURES))
    table = table.astype({"delay": "float64", "wind": "float64"})
    expected = encode(table, contract.data)
    for name, array in expected.items():
        np.testing.assert_array_equal(parsed.batch[name], array)
        assert parsed.batch[name].dtype == array.dtype


def test_encoding_has_the_right_shape_without_a_kind_of_feature() -> None:
    only_numbers = RequestContract(spec(features={"delay": {"kind": "numeric"}}))
    batch = only_numbers.parse(b'{"rows": [{"delay": 1}, {"delay": 2}]}').batch
    assert batch["numeric"].shape == (2, 1)
    assert batch["categorical"].shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"delay": None}, "/rows/1/delay", "required"),
        ({"delay": True}, "/rows/1/delay", "number"),
        ({"delay": "1"}, "/rows/1/delay", "number"),
        ({"delay": -11}, "/rows/1/delay", "min"),
        ({"delay": 1e7}, "/rows/1/delay", "max"),
        ({"wind": 1e39}, "/rows/1/wind", "finite"),
        ({"carrier": "AB"}, "/rows/1/carrier", "category"),
        ({"carrier": None}, "/rows/1/carrier", "required"),
        ({"carrier": 3}, "/rows/1/carrier", "string"),
        ({"tail/no": 3}, "/rows/1/tail~1no", "string"),
        ({"carier": "AA"}, "/rows/1/carier", "unknown key"),
        ({"departs": "yesterday"}, "/rows/1/departs", "ISO 8601 time"),
        ({"departs": "0001-01-01T00:00:00+23:59"}, "/rows/1/departs", "ISO 8601 time"),
        ({"departs": "1500-01-01"}, "/rows/1/departs", "ISO 8601 time"),
        ({"departs": 3}, "/rows/1/departs", "ISO 8601 time"),
        ({"flight": 1.5}, "/rows/1/flight", "row id"),
        ({"flight": True}, "/rows/1/flight", "row id"),
        ({"flight": "x" * 257}, "/rows/1/flight", "row id"),
    ],
)
def test_a_broken_cell_is_named(change: dict[str, Any], field: str, rule: str) -> None:
    error = refusal({"rows": [ROW, ROW | change]})
    assert (error.field, error.rule) == (field, rule)
    assert error.allowed
    assert error.next


def test_the_nearest_name_is_offered() -> None:
    assert refusal({"rows": [ROW | {"carier": "AA"}]}).allowed == "did you mean 'carrier'?"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", ""),
        (b"[]", ""),
        (b"{", ""),
        (b'{"rows": [{"delay": NaN}]}', ""),
        (b'{"rows": [{"delay": 1e999}]}', None),
        (b"[" * 1500, ""),
        (b"\xff\xfe", ""),
        (b"{}", "/rows"),
        (b'{"rows": []}', "/rows"),
        (b'{"rows": {}}', "/rows"),
        (b'{"rows": [1]}', "/rows/0"),
        (b'{"rows": [{}], "more": 1}', "/more"),
    ],
)
def test_a_broken_body_is_refused(body: bytes, field: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        CONTRACT.parse(body)
    if field is not None:
        assert caught.value.field == field


def test_size_is_bounded() -> None:
    with pytest.raises(RequestTooLargeError, match=r"serving\.max_body_bytes|too large"):
        CONTRACT.parse(b" " * 2001)
    with pytest.raises(RequestTooLargeError) as caught:
        CONTRACT.parse(orjson.dumps({"rows": [{}] * 6}))
    assert caught.value.rule == "serving.max_rows"


def test_time_and_row_id_travel_with_the_row() -> None:
    parsed = CONTRACT.parse(
        orjson.dumps({"rows": [ROW | {"departs": "2013-06-01T02:00:00+02:00", "flight": 7}, ROW | {"flight": "x"}]})
    )
    assert parsed.event_times[0] == datetime(2013, 6, 1, tzinfo=UTC).timestamp() * 1e6
    assert abs(parsed.event_times[1] / 1e6 - datetime.now(UTC).timestamp()) < 60
    assert parsed.row_ids == ["7", "x"]
    assert parsed.num_rows == 2


LABELS: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"kind": "binary"}, [0, 1, 1.0], [2, True, "1", None, 0.5]),
    ({"kind": "binary", "positive": "yes"}, ["yes", "no"], [1, None, True]),
    ({"kind": "multiclass", "classes": ["a", "b"]}, ["a", "b"], ["c", 1, None]),
    ({"kind": "regression"}, [1, -2.5, 1e30], ["1", True, None, 1e300]),
]


@pytest.mark.parametrize(("label", "good", "bad"), LABELS)
def test_labels_are_checked_by_their_kind(label: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    contract = RequestContract(spec(label))

    def outcomes(value: Any) -> bytes:
        return orjson.dumps({"outcomes": [{"request_id": "r", "label": value}]})

    for value in good:
        assert contract.parse_outcomes(outcomes(value)).labels == [value]
    for value in bad:
        with pytest.raises(RequestError) as caught:
            contract.parse_outcomes(outcomes(value))
        assert caught.value.field == "/outcomes/0/label"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"request_id": None}, "request_id"),
        ({"request_id": "a b"}, "request_id"),
        ({"row": -1}, "row"),
        ({"row": True}, "row"),
        ({"row": 2**31}, "row"),
        ({"known_at": "soon"}, "known_at"),
        ({"when": 1}, "when"),
    ],
)
def test_a_broken_outcome_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        CONTRACT.parse_outcomes(orjson.dumps({"outcomes": [{"request_id": "r", "label": 1} | change]}))
    assert caught.value.field == f"/outcomes/0/{field}"


def test_outcomes_have_defaults() -> None:
    found = CONTRACT.parse_outcomes(b'{"outcomes": [{"request_id": "r", "label": 1, "known_at": "2013-01-02"}]}')
    assert (found.request_ids, found.rows, found.labels) == (["r"], [0], [1.0])
    assert found.known_at == [datetime(2013, 1, 2, tzinfo=UTC).timestamp() * 1e6]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
hostile_rows = st.lists(
    st.dictionaries(st.sampled_from([*FEATURES, "departs", "flight", "~/"]), json_values, max_size=6), max_size=4
)
hostile_bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(orjson.dumps),
    hostile_rows.map(lambda rows: orjson.dumps({"rows": rows})),
    hostile_rows.map(lambda rows: orjson.dumps({"outcomes": rows})),
    st.lists(
        st.dictionaries(st.sampled_from(["request_id", "row", "label", "known_at"]), json_values, max_size=4),
        max_size=4,
    ).map(lambda items: orjson.dumps({"outcomes": items})),
)


@settings(max_examples=400, deadline=None)
@given(hostile_bodies)
def test_any_bytes_give_a_request_or_a_request_error(body: bytes) -> None:
    for parse in (CONTRACT.parse, CONTRACT.parse_outcomes):
        with contextlib.suppress(RequestError):
            found = parse(body)
            assert not np.isinf(getattr(found, "batch", {}).get("numeric", np.zeros(0))).any()


def test_a_hostile_body_is_not_echoed_at_length() -> None:
    error = refusal({"rows": [ROW | {"x" * 1500: "y"}]})
    assert len(str(error)) < 800
    assert len(error.field) < 120


@pytest.mark.parametrize("value", ["", "a b", "x" * 129, "ü", "a\n"])
def test_a_bad_request_id_is_refused(value: str) -> None:
    with pytest.raises(RequestError, match="x-request-id"):
        check_request_id(value)


def test_a_good_request_id_passes() -> None:
    assert check_request_id("A-z.0:9_") == "A-z.0:9_"
