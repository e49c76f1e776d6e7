"""The little of ASGI that the service needs: its types, a bounded body, and the lifespan messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from millrace.requests import too_large

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes | None:
    """The request's body; None when the caller went away.

    Raises:
        RequestTooLargeError: it has more than `max_bytes`; no more than that is read.
    """
    for name, value in scope["headers"]:
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
