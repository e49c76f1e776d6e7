"""What a pipeline's ledger tells: what served at a moment, why, and who decided; and all that happened, in order."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from millrace.ledger import Entry, Ledger
from millrace.settings import Settings
from millrace.spec.load import pipeline_dir

#: What runs note for themselves, so that they find it again: no part of the story unless it is asked for.
NOTES = frozenset(
    {
        "run_started",
        "evaluated",
        "checked",
        "window_checked",
        "demo",
        "training_slot_taken",
        "training_slot_released",
        "serving_slot_taken",
        "serving_slot_released",
    }
)


def history(
    settings: Settings,
    name: str,
    *,
    at: datetime | None = None,
    everything: bool = False,
    verify: bool = False,
    head: str | None = None,
) -> dict[str, Any]:
    """What served `at` that time; without it, what serves and all entries, newest last.

    Raises:
        UnknownNameError: there is no such pipeline.
        DigestError: `verify` or `head` was asked for, and the ledger is not as it was written.
    """
    pipeline_dir(name, settings.pipelines)
    ledger = Ledger(settings.ledger)
    answer: dict[str, Any] = {"pipeline": name, "at": None if at is None else at.isoformat()}
    answer["serving"] = _serving(ledger, ledger.serving(name, at))
    if at is None:
        entries = ledger.entries(name)
        answer["entries"] = [_told(entry) for entry in entries if everything or entry.kind not in NOTES]
    if verify or head is not None:
        count, digest = ledger.verify(head)
        answer["chain"] = {"entries": count, "digest": digest}
    ledger.close()
    return answer


def _serving(ledger: Ledger, entry: Entry | None) -> dict[str, Any] | None:
    """The version that `entry` lets serve, with the decision that caused it."""
    if entry is None:
        return None
    number = entry.detail.get("because")
    cause = None if number is None else ledger.entry(int(number))
    return {
        "version": entry.subject,
        "package": entry.detail["package"],
        "since": entry.at.isoformat(),
        "because": None if cause is None else _told(cause),
        "decided_by": entry.actor if cause is None else cause.actor,
    }


def _told(entry: Entry) -> dict[str, Any]:
    return {
        "entry": entry.sequence,
        "at": entry.at.isoformat(),
        "kind": entry.kind,
        "subject": entry.subject,
        "actor": entry.actor,
        "why": why(entry),
        "detail": entry.detail,
    }


def why(entry: Entry) -> str:
    """What an entry says, in a line."""
    detail = entry.detail
    reasons = "; ".join(str(reason) for reason in detail.get("reasons") or ())
    match entry.kind:
        case "incident_opened":
            seen = "; ".join(str(reason) for reason in detail["evidence"].get("reasons") or ())
            return f"{detail['kind']} of version {detail['version']}: {seen}"
        case "incident_answered":
            return f"training {detail['response']}"
        case "incident_closed":
            return str(detail["outcome"])
        case "trained":
            return f"{detail['outcome']}: version {detail['version']}"
        case "rolled_back":
            return f"from version {detail['from']} to {detail['to']}"
        case "serving":
            return f"because of entry {detail.get('because', '(not recorded)')}"
        case _:
            return reasons or ", ".join(
                f"{key} {value}" for key, value in detail.items() if isinstance(value, str | int | float)
            )
