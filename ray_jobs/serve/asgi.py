"""The little of ASGI that the service needs: its types, a bounded body, replies, and the lifespan messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from millrace.errors import ContentEncodingError
from millrace.requests import too_large

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a caller gets."""

    status: int
    payload: bytes
    content_type: bytes
    headers: Headers = ()

    async def send(self, send: Send, *more: tuple[bytes, bytes]) -> None:
        headers = [
            *self.headers,
            (b"content-type", self.content_type),
            (b"content-length", str(len(self.payload)).encode()),
            *more,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.payload})


def json_reply(status: int, document: dict[str, Any]) -> Reply:
    return Reply(status, orjson.dumps(document), b"application/json")


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes | None:
    """The request's body; None when the caller went away.

    Raises:
        ContentEncodingError: it is compressed.
        RequestTooLargeError: it has more than `max_bytes`; no more than that is read.
    """
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise ContentEncodingError(
                "the body is compressed",
                field="content-encoding",
                rule="identity",
                got=value.decode("latin-1"),
                allowed="none",
                next="send it as it is: inputs as binary data are small",
            )
        if name == b"content-length" and value.isdigit():
            # Its first digits are enough: Python refuses to read a number of many thousand.
            declared = int(value.lstrip(b"0")[:19] or b"0")
            if declared > max_bytes:
                raise too_large(declared, max_bytes)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise too_large(None, max_bytes)
        if not message.get("more_body", False):
            return b"".join(parts)


async def lifespan(receive: Receive, send: Send) -> None:
    """Answer the server's start and stop messages; there is nothing to do for them."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
