"""Asking a service in this process, mounted where a pipeline's service is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx

from ray_jobs.serve.service import PredictionService

#: A method, a path, and what httpx takes besides.
Ask = Callable[..., httpx.Response]


def asking(service: PredictionService, **transport: Any) -> Ask:
    def ask(method: str, path: str, **options: Any) -> httpx.Response:
        async def call() -> httpx.Response:
            http = httpx.ASGITransport(service, root_path="/v1/tiny", **transport)
            async with httpx.AsyncClient(transport=http, base_url="http://test/v1/tiny") as client:
                return await client.request(method, path, **options)

        return asyncio.run(call())

    return ask
