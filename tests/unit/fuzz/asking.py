"""A service that is asked anything: over bare ASGI, in bounded time, and good requests are answered as before."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from millrace.open_inference import HEADER_LENGTH
from millrace.request_values import REQUEST_ID
from ray_jobs.serve.service import PredictionService
from tests.unit.millrace.open_inference import wire
from tests.unit.ray_jobs.serve.world import World

GOOD = {
    "rows": [
        {"delay": 1.5, "carrier": "UA", "departs": "2024-01-02T03:04:05Z", "flight": "f1"},
        {"delay": 2, "carrier": "AA"},
    ]
}
OUTCOMES = {"outcomes": [{"request_id": "me.1", "row": 0, "label": 1, "known_at": "2024-01-02T03:04:05Z"}]}
#: The same rows by the Open Inference Protocol.
TENSORS = {
    "inputs": [
        wire.json_input("delay", "FP64", [1.5, 2.0]),
        wire.json_input("carrier", "BYTES", ["UA", "AA"]),
    ]
}
INFER = "/v2/models/tiny/infer"
_ALIVE_SECONDS = 10.0
Headers = list[tuple[bytes, bytes]]


class Asked:
    """A service with a version loaded, and what it answered to good requests before anything bad was sent."""

    def __init__(self, root: Any, label: dict[str, Any]) -> None:
        self.world = World(root, label)
        self.service = PredictionService(self.world.pipeline, self.world.store, self.world.log_folder)
        asyncio.run(self.service.load(self.world.publish("1")))
        self.before = asyncio.run(self.good())

    async def good(self) -> tuple[Any, Any]:
        """What good requests are answered, one by each protocol."""
        status, own = await self.ask("POST", "/predict", json.dumps(GOOD).encode(), [])
        assert status == 200
        status, other = await self.ask("POST", INFER, json.dumps(TENSORS).encode(), [])
        assert status == 200
        return own["predictions"], other["outputs"]

    def send(
        self, method: str, path: str, body: bytes, headers: Headers, *, cuts: int = 1, raw: bool = False
    ) -> tuple[int, Any]:
        """`ask`, from outside of an event loop."""
        return asyncio.run(self.ask(method, path, body, headers, cuts=cuts, raw=raw))

    async def ask(
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
        await asyncio.wait_for(self.service(scope, receive, send), _ALIVE_SECONDS)
        start, end = sent
        told = dict(start["headers"])
        assert int(told[b"content-length"]) == len(end["body"])
        assert REQUEST_ID.fullmatch(told[b"x-request-id"].decode())
        for name, value in start["headers"]:
            assert b"\n" not in name + value
            assert b"\r" not in name + value
        document = json.loads(end["body"][: int(told.get(HEADER_LENGTH, len(end["body"])))])
        if start["status"] >= 300:
            assert told[b"content-type"] == b"application/problem+json"
            assert document["status"] == start["status"]
            assert {"type", "title", "detail", "request_id"} <= set(document)
            assert len(end["body"]) < 6000
        return start["status"], document

    def assert_unharmed(self) -> None:
        assert asyncio.run(self.good()) == self.before
