"""Whatever is sent to the service: an answer or a problem document, and the next good request is answered as before."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from millrace import inference_log
from tests.unit.fuzz.asking import GOOD, OUTCOMES, Asked, Headers
from tests.unit.fuzz.material import examples, mangled, mutated, texts, values

_paths = st.sampled_from(["/predict", "/outcomes"])
_bodies = st.one_of(
    st.binary(max_size=1500), mangled(json.dumps(GOOD).encode()), mangled(json.dumps(OUTCOMES).encode())
)
_lengths = st.one_of(st.binary(max_size=30), st.sampled_from([b"-1", b"1" * 5000, b"\xb2", b"1e3", b"0", b"+5"]))
_headers = st.lists(
    st.one_of(
        st.tuples(st.just(b"x-request-id"), st.binary(max_size=200)),
        st.tuples(st.just(b"content-length"), _lengths),
        st.tuples(st.sampled_from([b"content-type", b"transfer-encoding", b"expect", b"x"]), st.binary(max_size=30)),
    ),
    max_size=3,
)


@given(path=_paths, body=_bodies, headers=_headers, cuts=st.integers(1, 9))
@example(path="/predict", body=b"[" * 1000, headers=[], cuts=1)
@example(path="/predict", body=b'{"rows":' * 120, headers=[], cuts=1)
@example(path="/predict", body=b'{"rows": [{"delay": NaN, "carrier": "UA"}]}', headers=[], cuts=1)
@example(path="/predict", body=b'{"rows": [{"delay": 1e999, "carrier": "UA"}]}', headers=[], cuts=1)
@example(path="/predict", body=b'{"rows": [{"delay": ' + b"9" * 500 + b', "carrier": "UA"}]}', headers=[], cuts=1)
@example(path="/predict", body=b'{"rows": [{"delay": 1, "delay": 2, "carrier": "UA"}]}', headers=[], cuts=1)
@example(path="/predict", body=b'{"rows": [{"delay": 1, "carrier": "\\ud800"}]}', headers=[], cuts=1)
@example(path="/predict", body=b'{"rows": [{"delay": 1, "carrier": "UA", "flight": "\\u0000"}]}', headers=[], cuts=1)
@example(
    path="/predict",
    body=b'{"rows": [{"delay": 1, "carrier": "UA"}]}',
    headers=[(b"content-length", b"1" * 5000)],
    cuts=1,
)
@example(
    path="/predict",
    body=b'{"rows": [{"delay": 1, "carrier": "UA"}]}',
    headers=[(b"x-request-id", b"a\r\nb: c")],
    cuts=1,
)
@examples(0.6)
def test_any_bytes(asked: Asked, path: str, body: bytes, headers: Headers, cuts: int) -> None:
    status, _ = asked.send("POST", path, body, headers, cuts=cuts)
    assert status in (200, 202, 413, 422)
    asked.assert_unharmed()


@given(path=_paths, document=st.one_of(values, mutated(GOOD), mutated(OUTCOMES)))
@examples(0.4)
def test_any_document(asked: Asked, path: str, document: Any) -> None:
    # Python's writer, not ours: it writes NaN, infinities and lone surrogates.
    status, answer = asked.send("POST", path, json.dumps(document).encode(), [])
    assert status in (200, 202, 413, 422)
    if status == 200:
        assert len(answer["predictions"]) == len(document["rows"])
    asked.assert_unharmed()


@given(
    method=st.one_of(st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "post", ""]), texts),
    path=st.one_of(texts, st.sampled_from(["/predict", "/predict/", "//predict", "/%70redict", "/", "/../predict"])),
    raw=st.booleans(),
)
def test_any_path_and_method(asked: Asked, method: str, path: str, raw: bool) -> None:
    status, _ = asked.send(method, path, b"", [], raw=raw)
    assert status in (200, 404, 405, 422)
    asked.assert_unharmed()


def test_a_caller_that_goes_away_leaves_nothing(asked: Asked) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to be answered")

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
    asyncio.run(asked.service(scope, receive, send))
    asked.assert_unharmed()


@given(data=st.data())
@examples(2)
def test_the_log_is_read_as_it_was_asked(asked: Asked, data: st.DataObject) -> None:
    """Texts that pass the contract come back from the log unchanged."""
    name = data.draw(st.text(min_size=1, max_size=30))
    body = json.dumps({"rows": [{"delay": 1, "carrier": "UA", "flight": name}]}).encode()
    code, answer = asked.send("POST", "/predict", body, [])
    assert code == 200
    rows = inference_log.read_answers(asked.world.log_folder, asked.world.pipeline.spec.data)
    found = rows[rows["request_id"] == answer["request_id"]]
    assert found["row_id"].tolist() == [name]
