"""A server that is busy for a moment is asked again, with the same request; the client sees the last answer only."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from infra.local import patience
from infra.local.patience import Patient


class Busy:
    """Answers 503 `times` times, then what it was sent; it writes into its scope, as frameworks do."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert "touched" not in scope
        scope["touched"] = True
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        status = 503 if len(self.bodies) <= self.times else 201
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body[:2], "more_body": True})
        await send({"type": "http.response.body", "body": body[2:]})


def post(app: Any, content: Any) -> httpx.Response:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return await client.post("/", content=content)

    return asyncio.run(call())


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_PAUSES", (0.0,) * 3)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_server_that_is_busy_is_asked_again(times: int) -> None:
    app = Busy(times)
    answer = post(Patient(app), b"a flow run")
    assert (answer.status_code, answer.content) == (201, b"a flow run")
    assert app.bodies == [b"a flow run"] * (times + 1)


def test_a_body_in_parts_is_sent_again_whole() -> None:
    async def parts() -> Any:
        yield b"a flow"
        yield b" run"

    app = Busy(2)
    assert post(Patient(app), parts()).content == b"a flow run"
    assert app.bodies == [b"a flow run"] * 3


def test_one_that_stays_busy_says_so() -> None:
    app = Busy(100)
    assert post(Patient(app), b"x").status_code == 503
    assert len(app.bodies) == 4


def test_other_connections_go_through() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Patient(app)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
