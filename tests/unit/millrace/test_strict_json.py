"""JSON from outside is JSON as it was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace import strict_json
from millrace.errors import ArtifactError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=values)
@settings(max_examples=100, deadline=None)
def test_what_was_written_is_read(value: Any) -> None:
    assert strict_json.parse(json.dumps(value).encode(), "x") == value


@given(content=st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        strict_json.parse(content, "x")
    except ArtifactError as error:
        assert error.what == "x cannot be read"


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b'{"a": 1, "a": 1}', "key 'a' appears twice"),
        (b'{"b": {"a": 1, "c": 2, "a": 3}}', "key 'a' appears twice"),
        (b"NaN", "nan is no number"),
        (b"[-Infinity]", "-inf is no number"),
        (b"[1e999]", "inf is no number"),
        (b"9" * 5000, "Exceeds the limit"),
        (b"[" * 33 + b"]" * 33, "more than 32 levels"),
        (b"[" * 1_000_000, "recursion"),
        (b" " * (strict_json.MAX_BYTES + 1), "more than 16777216 bytes"),
        (b"\xff", "decode"),
        (b"{}{}", "Extra data"),
    ],
)
def test_what_nobody_means_is_refused(content: bytes, got: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        strict_json.parse(content, "x")
    assert got in (caught.value.got or "")


def test_nan_is_read_where_it_is_allowed() -> None:
    assert strict_json.parse(b"[Infinity]", "x", allow_nan=True) == [float("inf")]
    assert strict_json.parse(b"[" * 32 + b"]" * 32, "x") is not None
