"""Prefect's API for a benchmark: sets up and counts, and waits where the server is too busy to answer."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

import httpx

from millrace.settings import Settings

_PATIENCE_SECONDS = 240.0


class Api:
    """One connection to the server.

    Raises:
        httpx.HTTPError: the server refuses, or does not answer within four minutes.
    """

    def __init__(self, settings: Settings) -> None:
        self._client = httpx.Client(
            base_url=settings.prefect_api_url,
            headers=settings.prefect_headers,
            timeout=_PATIENCE_SECONDS,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> Any:
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, json=body)

    def patch(self, path: str, body: Any) -> None:
        self._ask("PATCH", path, json=body)

    def delete(self, path: str) -> None:
        self._ask("DELETE", path)

    def _ask(self, method: str, path: str, **content: Any) -> Any:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            response = self._client.request(method, path, **content)
            # SQLite has one writer: the server says so when it was not its turn.
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                response.raise_for_status()
                return response.json() if response.content else None
            time.sleep(0.2)
