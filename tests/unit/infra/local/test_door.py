"""What stands before Prefect's and MLflow's apps."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.door import Door

HOSTS = frozenset({"127.0.0.1:4200", "localhost:4200"})
HOME = "http://127.0.0.1:4200"
SECRET = "Basic dXNlcjpwYXNzd29yZA=="


async def inner(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(door: Door, path: str = "/", **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url=HOME) as client:
            return await client.post(path, headers=headers)

    return asyncio.run(call())


def test_who_asks_at_its_own_address_gets_in() -> None:
    door = Door(inner, HOSTS)
    assert ask(door).text == "inside"
    for origin in (HOME, "http://localhost:4200", "HTTP://LOCALHOST:4200"):
        assert ask(door, origin=origin).text == "inside"


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://localhost:3000",
        "http://127.0.0.1",
        "null",
        "file://",
        "",
        "http://[x",
        "127.0.0.1",
    ],
)
def test_a_page_of_another_origin_stays_outside(origin: str) -> None:
    refused = ask(Door(inner, HOSTS), origin=origin)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4200", "127.0.0.1:5000", ""])
def test_a_name_that_somebody_points_to_loopback_stays_outside(host: str) -> None:
    assert ask(Door(inner, HOSTS), host=host).status_code == 403


def test_where_its_names_are_not_known_the_origin_must_be_the_host() -> None:
    door = Door(inner, HOSTS, any_host=True)
    assert ask(door, host="prefect.example").text == "inside"
    assert ask(door, host="prefect.example", origin="https://prefect.example").text == "inside"
    assert ask(door, host="prefect.example", origin="https://evil.example").status_code == 403
    assert ask(door, host="", origin="null").status_code == 403


def test_credentials_are_demanded_except_on_open_paths() -> None:
    door = Door(inner, HOSTS, authorization=SECRET, open_paths=frozenset({"/health"}))
    refused = ask(door)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert SECRET not in refused.text
    assert ask(door, authorization=SECRET).text == "inside"
    assert ask(door, "/health").text == "inside"
    for path in ("/health/", "/healthx", "/x/health", "//health", "/health/../api"):
        assert ask(door, path).status_code == 401, path


@given(given=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_no_other_credentials_get_in(given: str) -> None:
    door = Door(inner, HOSTS, authorization=SECRET)
    for header in (given, f"Basic {given}", SECRET[:-1]):
        assert ask(door, authorization=header).status_code == 401


def test_a_header_sent_twice_is_refused() -> None:
    door = Door(inner, HOSTS, authorization=SECRET)

    async def call(*headers: tuple[str, str]) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url=HOME) as client:
            return (await client.get("/", headers=[("authorization", SECRET), *headers])).status_code

    assert asyncio.run(call()) == 200
    assert asyncio.run(call(("origin", HOME), ("origin", "http://evil.example"))) == 403
    assert asyncio.run(call(("authorization", SECRET))) == 401


@pytest.mark.parametrize("headers", [[], [(b"host", b"evil.example")], [(b"host", b"127.0.0.1:4200")]])
def test_a_websocket_is_closed_before_it_is_accepted(headers: list[tuple[bytes, bytes]]) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    door = Door(inner, HOSTS, authorization=SECRET)
    asyncio.run(door({"type": "websocket", "path": "/api/events/in", "headers": headers}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_start_and_stop_messages_pass() -> None:
    seen: list[str] = []

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Door(app, HOSTS, authorization=SECRET)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
