"""Whatever is sent to the service by the Open Inference Protocol, also beside good requests: never a 500, never a hang,
and whoever asks at the same time gets the answer that it would have got alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.fuzz.asking import GOOD, INFER, TENSORS, Asked, Headers
from tests.unit.fuzz.material import examples, mangled, mutated, values
from tests.unit.millrace.open_inference import wire

_PLAIN = {**TENSORS, "id": "7", "parameters": {"binary_data_output": True}}
_BINARY, _LENGTH = wire.request(
    [
        wire.binary_input("delay", "FP32", [1.5, 2.0]),
        wire.binary_input("carrier", "BYTES", ["UA", "AA"], shape=[2, 1]),
        wire.binary_input("flight", "BYTES", ["f1", ""]),
    ]
)
_HEAD = json.loads(_BINARY[: int(_LENGTH or b"0")])
_REFUSED = (404, 413, 415, 422)

_lengths = st.one_of(
    st.just(_LENGTH), st.binary(max_size=25), st.integers(-5, 1500).map(lambda number: str(number).encode())
)
_headers = st.lists(
    st.one_of(
        st.tuples(st.just(b"inference-header-content-length"), _lengths),
        st.tuples(st.just(b"content-encoding"), st.sampled_from([b"gzip", b"identity", b"br", b"\xff"])),
        st.tuples(st.just(b"x-request-id"), st.binary(max_size=40)),
    ),
    max_size=2,
)
_bytes = st.one_of(mangled(_BINARY), mangled(json.dumps(_PLAIN).encode()), st.binary(max_size=300), st.just(_BINARY))


@st.composite
def _headed(draw: st.DrawFn) -> tuple[bytes, Headers]:
    """Some document before sound binary data, and the length that it really has."""
    head = json.dumps(draw(mutated(_HEAD))).encode()
    return head + _BINARY[int(_LENGTH or b"0") :], [(b"inference-header-content-length", str(len(head)).encode())]


_any = st.one_of(
    st.tuples(_bytes, _headers),
    st.tuples(st.one_of(mutated(_PLAIN), values).map(lambda found: json.dumps(found).encode()), st.just([])),
    _headed(),
)


@given(body=_bytes, headers=_headers, cuts=st.integers(1, 9))
@example(body=b"", headers=[], cuts=1)
@example(body=_BINARY, headers=[(b"inference-header-content-length", b"9" * 5000)], cuts=1)
@example(body=_BINARY, headers=[(b"inference-header-content-length", b"\xb2")], cuts=3)
@example(body=b'{"inputs":' * 100, headers=[], cuts=1)
@examples(1)
def test_any_bytes(asked: Asked, body: bytes, headers: Headers, cuts: int) -> None:
    status, answer = asked.send("POST", INFER, body, headers, cuts=cuts)
    assert status == 200 or (status in _REFUSED and answer["error"])
    asked.assert_unharmed()


@given(document=st.one_of(values, mutated(_PLAIN)))
@examples(1)
def test_any_document(asked: Asked, document: Any) -> None:
    # Python's writer, not ours: it writes NaN, infinities and lone surrogates.
    status, answer = asked.send("POST", INFER, json.dumps(document).encode(), [])
    assert status == 200 or (status in _REFUSED and answer["error"])
    if status == 200:
        assert {output["shape"][0] for output in answer["outputs"]} == {document["inputs"][0]["shape"][0]}
    asked.assert_unharmed()


@given(sent=_headed())
@examples(1)
def test_any_document_before_binary_data(asked: Asked, sent: tuple[bytes, Headers]) -> None:
    status, answer = asked.send("POST", INFER, *sent)
    assert status == 200 or (status in _REFUSED and answer["error"])
    asked.assert_unharmed()


@given(bad=st.lists(_any, min_size=1, max_size=5))
@examples(1.5)
def test_whoever_asks_at_the_same_time_is_answered_as_if_alone(asked: Asked, bad: list[tuple[bytes, Headers]]) -> None:
    """They may be in one batch, whose numbers differ in their last place from those of a smaller one."""

    async def ask() -> list[Any]:
        own, tensors = json.dumps(GOOD).encode(), json.dumps(TENSORS).encode()
        asks = [asked.ask("POST", INFER, *sent) for sent in bad]
        asks[len(asks) // 2 : 0] = [asked.ask("POST", "/predict", own, []), asked.ask("POST", INFER, tensors, [])]
        return list(await asyncio.gather(*asks))

    found = asyncio.run(ask())
    at = len(bad) // 2
    (own_status, own), (status, tensors) = found[at : at + 2]
    assert (own_status, status) == (200, 200)
    leaves = _leaves(asked.before)
    wanted = [leaf if isinstance(leaf, str) else pytest.approx(leaf, rel=1e-6) for leaf in leaves]
    assert _leaves([own["predictions"], tensors["outputs"]]) == wanted
    assert {status for status, _ in found[:at] + found[at + 2 :]} <= {200, *_REFUSED}


def _leaves(found: Any) -> list[Any]:
    """The leaves of an answer, in their order."""
    if isinstance(found, dict):
        found = list(found.values())
    return [leaf for inner in found for leaf in _leaves(inner)] if isinstance(found, list | tuple) else [found]
