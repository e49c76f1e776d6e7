"""`millrace shadow`: how the answers of a version that answers nobody differ from those that were given."""

from __future__ import annotations

from typing import Any

from millrace.errors import ConfigError, ConflictError
from millrace.inference_log import inference_folder, read_shadow
from millrace.ledger import TRAFFIC, Ledger
from millrace.settings import Settings
from millrace.shadow import MOST_MOVED, judge_shadow
from millrace.spec.load import load_spec, pipeline_dir
from millrace.traffic_rules import TrafficRules


def judge(
    settings: Settings,
    name: str,
    version: str | None = None,
    tolerance: float | None = None,
    most_moved: float | None = None,
) -> dict[str, Any]:
    """The verdict on `version`, or on the one that was mirrored to last.

    Raises:
        UnknownNameError: there is no such pipeline.
        ConflictError: nothing was ever mirrored.
        ConfigError: a number is out of its range.
    """
    spec = load_spec(pipeline_dir(name, settings.pipelines))
    spec.require_served()
    if tolerance is not None and not 0 <= tolerance < float("inf"):
        raise ConfigError(
            "the tolerance is no distance", got=tolerance, allowed="a number from 0 on", next="correct it"
        )
    if most_moved is not None and not 0 <= most_moved <= 1:
        raise ConfigError(
            "the share that may move is none", got=most_moved, allowed="a number from 0 to 1", next="correct it"
        )
    number = version or _mirrored_last(Ledger(settings.ledger), name)
    rows = read_shadow(inference_folder(settings, name), spec.table)
    rows = rows[rows["version"] == number].reset_index(drop=True)
    allowed = MOST_MOVED if most_moved is None else most_moved
    verdict = judge_shadow(rows, spec.table.label, tolerance=tolerance, most_moved=allowed)
    primaries = sorted(set(rows["primary"]))
    return {"pipeline": name, "version": number, "answered_by": primaries, "verdict": verdict.as_dict()}


def _mirrored_last(ledger: Ledger, name: str) -> str:
    for entry in reversed(ledger.entries(name, TRAFFIC)):
        if (shadow := TrafficRules.from_json(entry.detail["rules"]).shadow) is not None:
            return shadow.version
    raise ConflictError(
        f"nothing of '{name}' was ever mirrored", next=f"begin with `millrace traffic {name} --shadow VERSION=SHARE`"
    )
