"""`millrace keys list`: the keys, how often their customers may ask, and how many times they have today."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from millrace.errors import MillraceError
from millrace.keys import KeyFile
from millrace.quotas import day_of, usage_of_day
from millrace.settings import Settings
from millrace.spec.load import load_spec, pipeline_dir


def list_keys(settings: Settings) -> dict[str, Any]:
    """`keys`, `limits` by customer, and `usage`: requests today (UTC) by customer and pipeline, with the quota.

    A customer that has a quota of its own and has not asked yet is there without a pipeline.

    Raises:
        ArtifactError: the file of the keys is damaged.
    """
    ring = KeyFile(settings.keys_path).read()
    limits = {customer: limit.as_dict() for customer, limit in sorted(ring.limits.items())}
    counted = usage_of_day(settings, day_of(time.time()))
    return {
        "keys": [key.as_dict() for key in ring.keys],
        "limits": limits,
        "usage": _usage(settings, ring.quotas, counted),
    }


def _usage(
    settings: Settings, quotas: Mapping[str, int], counted: Mapping[str, Mapping[str, int]]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for pipeline, counts in counted.items():
        default = _default(settings, pipeline)
        for customer, used in counts.items():
            quota = quotas.get(customer, default)
            found.append({"customer": customer, "pipeline": pipeline, "used": used, "quota": quota})
    asked = {row["customer"] for row in found}
    for customer in sorted(quotas.keys() - asked):
        found.append({"customer": customer, "pipeline": None, "used": 0, "quota": quotas[customer]})
    return sorted(found, key=lambda row: (row["customer"], row["pipeline"] or ""))


def _default(settings: Settings, pipeline: str) -> int | None:
    try:
        return load_spec(pipeline_dir(pipeline, settings.pipelines)).serving.customer_quota
    except MillraceError:
        # Its folder is away, or being edited; what was counted is worth telling all the same.
        return None
