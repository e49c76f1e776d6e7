"""Whatever is sent to the service: an answer or a problem document, and the next good request is answered as before."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millrace import inference_log
from millrace.request_values import REQUEST_ID
from ray_jobs.serve.service import PredictionService
from tests.unit.fuzz.material import examples, mangled, mutated, texts, values
from tests.unit.ray_jobs.serve.world import World

_GOOD = {
    "rows": [
        {"delay": 1.5, "carrier": "UA", "departs": "2024-01-02T03:04:05Z", "flight": "f1"},
        {"delay": 2, "carrier": "AA"},
    ]
}
_OUTCOMES = {"outcomes": [{"request_id": "me.1", "row": 0, "label": 1, "known_at": "2024-01-02T03:04:05Z"}]}
_ALIVE_SECONDS = 10.0
Headers = list[tuple[bytes, bytes]]


class Asked:
    """A service with a version loaded, and what it answered to a good request before anything bad was sent."""

    def __init__(self, root: Any, label: dict[str, Any]) -> None:
        self.world = World(root, label)
        self.service = PredictionService(self.world.pipeline, self.world.store, self.world.log_folder)
        asyncio.run(self.service.load(self.world.publish("1")))
        self.before = self.predictions()

    def predictions(self) -> Any:
        status, document = self.send("POST", "/predict", json.dumps(_GOOD).encode(), [])
        assert status == 200
        return document["predictions"]

    def send(
        self, method: str, path: str, body: bytes, headers: Headers, *, cuts: int = 1, raw: bool = False
    ) -> tuple[int, Any]:
        """One request over bare ASGI, its body in `cuts` pieces: status and parsed answer."""
        size = max(1, len(body) // cuts)
        pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        inbox = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        inbox[-1]["more_body"] = False
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            return inbox.pop(0) if inbox else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path if raw else f"/v1/tiny{path}",
            "root_path": "/v1/tiny",
            "headers": headers,
            "query_string": b"",
        }
        asyncio.run(asyncio.wait_for(self.service(scope, receive, send), _ALIVE_SECONDS))
        start, end = sent
        told = dict(start["headers"])
        assert int(told[b"content-length"]) == len(end["body"])
        assert REQUEST_ID.fullmatch(told[b"x-request-id"].decode())
        for name, value in start["headers"]:
            assert b"\n" not in name + value
            assert b"\r" not in name + value
        document = json.loads(end["body"])
        if start["status"] >= 300:
            assert told[b"content-type"] == b"application/problem+json"
            assert document["status"] == start["status"]
            assert {"type", "title", "detail", "request_id"} <= set(document)
            assert len(end["body"]) < 4000
        return start["status"], document

    def assert_unharmed(self) -> None:
        assert self.predictions() == self.before


@pytest.fixture(scope="module", params=["binary", "multiclass", "regression", "named"])
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    labels = {
        "binary": {"kind": "binary"},
        "multiclass": {"kind": "multiclass", "classes": ["no", "yes"]},
        "regression": {"kind": "regression"},
        "named": {"kind": "binary", "positive": "late"},
    }
    logging.disable(logging.CRITICAL)
    made = Asked(tmp_path_factory.mktemp("asked"), labels[request.param])
    yield made
    # What was answered is in the log and can be read, also after it was closed.
    data = made.world.pipeline.spec.data
    live = inference_log.read_joined(made.world.log_folder, data)
    made.service.close()
    logging.disable(logging.NOTSET)
    closed = inference_log.read_joined(made.world.log_folder, data)
    assert len(live) == len(closed) > 0


_paths = st.sampled_from(["/predict", "/outcomes"])
_bodies = st.one_of(
    st.binary(max_size=1500), mangled(json.dumps(_GOOD).encode()), mangled(json.dumps(_OUTCOMES).encode())
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


@given(path=_paths, document=st.one_of(values, mutated(_GOOD), mutated(_OUTCOMES)))
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


Make = Callable[..., World]
