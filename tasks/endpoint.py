"""What a pipeline's endpoint says of itself."""

from __future__ import annotations

from typing import Any

import httpx

from millrace.faults import fault_point
from millrace.settings import Settings

_TIMEOUT_SECONDS = 2.0


def ask(settings: Settings, pipeline: str) -> httpx.Response | None:
    """The answer of the pipeline's endpoint when it is asked what it is; None when nobody answers."""
    try:
        with fault_point("endpoint.describe"):
            return httpx.get(f"{settings.serve_url}/v1/{pipeline}/", timeout=_TIMEOUT_SECONDS)
    except httpx.HTTPError:
        return None


def description(settings: Settings, pipeline: str) -> dict[str, Any] | None:
    """Its version, package_digest, code and contract; None when it does not say."""
    answer = ask(settings, pipeline)
    return None if answer is None or not answer.is_success else dict(answer.json())
