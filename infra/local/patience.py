"""Prefect's server on SQLite, which has one writer: whoever was refused, as it was not its turn, is tried again here.

The server answers 503 then, with the transaction rolled back, and Prefect's client waits two seconds before it asks
again: longer than a flow run takes to start. Here it takes as long as the other writer did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from infra.local.door import App, Message

_BUSY = 503
#: Seconds before each further attempt; then the answer is the client's to deal with.
_PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


@dataclass(frozen=True)
class Patient:
    """An ASGI app before another, which asks it again while it is busy."""

    app: App

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """One connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = await _whole(receive)
        for pause in _PAUSES:
            attempt = _Attempt(send)
            # An app may write into its scope.
            await self.app(dict(scope), _replayed(request, receive), attempt.send)
            if not attempt.is_busy:
                return
            await asyncio.sleep(pause)
        await self.app(dict(scope), _replayed(request, receive), send)


@dataclass
class _Attempt:
    """What the app sends, unless it is busy."""

    to_client: Callable[[Message], Awaitable[None]]
    is_busy: bool = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == _BUSY:
            self.is_busy = True
        if not self.is_busy:
            await self.to_client(message)


async def _whole(receive: Callable[[], Awaitable[Message]]) -> list[Message]:
    """The messages of a request, to its last one."""
    messages = [await receive()]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def _replayed(messages: list[Message], receive: Callable[[], Awaitable[Message]]) -> Callable[[], Awaitable[Message]]:
    left = iter(messages)

    async def next_message() -> Message:
        for message in left:
            return message
        return await receive()

    return next_message
