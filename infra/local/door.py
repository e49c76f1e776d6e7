"""What stands before the apps of Prefect and MLflow: a browser's other pages, and who has no credentials, stay outside.

Neither checks who asks as it should: Prefect takes a page of any origin and any Host header, MLflow takes pages of any
local port, and its own basic authentication is a second user database that keeps its first password for ever. One ASGI
layer does it for both, before a byte of the body is read, WebSockets included.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


@dataclass(frozen=True)
class Door:
    """An ASGI app before another.

    `hosts` are the names (HOST:PORT) that the server has for itself. With `any_host` it may be asked under others too:
    the names that its network has for it are not known here, and credentials protect it. `authorization` is the header
    that is demanded, except on `open_paths`; none: nothing is.
    """

    app: App
    hosts: frozenset[str]
    any_host: bool = False
    authorization: str | None = None
    open_paths: frozenset[str] = frozenset()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """One connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Before it is accepted, this is answered with 403.
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
        else:
            await _answer(send, *refusal)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = _headers(scope)
        host = headers.get("host", "").lower()
        if not self.any_host and host not in self.hosts:
            return 403, "this server has another name: ask it at its own address"
        origin = headers.get("origin")
        if origin is not None and (origin.lower().partition("://")[2] or None) not in {host, *self.hosts}:
            return 403, "a page of another origin may not ask this server"
        if self.authorization is None or scope["path"] in self.open_paths:
            return None
        given = headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), self.authorization.encode()):
            return 401, "credentials are missing or wrong"
        return None


def _headers(scope: Message) -> Mapping[str, str]:
    """The connection's headers; one that is sent twice counts as wrong, so that nobody can read the other one."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1")
        found[name] = value.decode("latin-1") if name not in found else "\0"
    return found


async def _answer(send: Callable[[Message], Awaitable[None]], status: int, reason: str) -> None:
    body = json.dumps({"error_code": "PERMISSION_DENIED", "message": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="millrace"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
