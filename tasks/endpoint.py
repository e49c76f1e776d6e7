"""What a pipeline's endpoint says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from millrace.faults import fault_point
from millrace.ledger import Entry, TrafficRecord
from millrace.settings import Settings
from millrace.traffic_rules import TrafficRules

_TIMEOUT_SECONDS = 2.0


def ask(settings: Settings, pipeline: str) -> httpx.Response | None:
    """The answer of the pipeline's endpoint when it is asked what it is; None when nobody answers."""
    try:
        with fault_point("endpoint.describe"):
            return httpx.get(f"{settings.serve_url}/v1/{pipeline}/", timeout=_TIMEOUT_SECONDS)
    except httpx.HTTPError:
        return None


def description(settings: Settings, pipeline: str) -> dict[str, Any] | None:
    """Its version, package_digest, code, traffic and contract; None when it does not say."""
    answer = ask(settings, pipeline)
    return None if answer is None or not answer.is_success else described(answer)


def described(answer: httpx.Response) -> dict[str, Any] | None:
    """The description in an answer; None when it holds none, as it is somebody else's."""
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"version", "package_digest"} <= set(found) else None


def is_by_ledger(found: Mapping[str, Any], serving: Entry, traffic: TrafficRecord | None) -> bool:
    """Whether a description is of what the ledger says: the version of `serving`, and beside it those of `traffic`."""
    version, package = serving.subject, serving.detail["package"]
    if found["version"] != version or (package and found["package_digest"] != package):
        return False
    rules = TrafficRules.only(version) if traffic is None else traffic.rules.for_replicas(version)
    packages = {} if traffic is None else {other: traffic.packages[other] for other in rules.answering - {version}}
    # One that knows of no traffic is of older code.
    match found.get("traffic", {"rules": "", "versions": {}}):
        case {"rules": told, "versions": dict(versions)}:
            beside = {other: digest for other, digest in versions.items() if other != version}
            return bool(told == rules.digest and beside == packages)
    return False
