"""What a pipeline's ledger tells: what served at a moment, why, and who decided; and all that happened, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

from millrace.approvals import requests
from millrace.approvals.code import Code
from millrace.errors import ApprovalError
from millrace.ledger import Entry, Ledger
from millrace.settings import Settings
from millrace.spec.load import pipeline_dir
from millrace.traffic_rules import TrafficRules

#: What runs note for themselves, so that they find it again: no part of the story unless it is asked for.
NOTES = frozenset(
    {
        "run_started",
        "run_resumed",
        "fitted",
        "evaluated",
        "check_begun",
        "checked",
        "replayed",
        "approval_awaited",
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
    answer: dict[str, Any] = {"pipeline": name, "at": None if at is None else at.isoformat()}
    with closing(Ledger(settings.ledger)) as ledger:
        if verify or head is not None:
            count, digest = ledger.verify(head)
            answer["chain"] = {"entries": count, "digest": digest}
        answer["serving"] = _serving(ledger, ledger.serving(name, at))
        if at is None:
            entries = ledger.entries(name)
            answer["entries"] = [_told(entry) for entry in entries if everything or entry.kind not in NOTES]
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
        "decided_by": entry.actor if cause is None else _decided_by(ledger, cause),
    }


def _decided_by(ledger: Ledger, cause: Entry) -> str:
    """The person who approved it, where one was asked and the signature held when it was used; else its actor."""
    request = cause.detail.get("approval")
    if request is None:
        return cause.actor
    approver = requests.standing_of(ledger, requests.find(ledger, str(request)), cause.at).approver
    return cause.actor if approver is None else f"person:{approver}"


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
    return _SAID.get(entry.kind, _facts)(entry.detail)


def _reasons(said: Mapping[str, Any]) -> str:
    return "; ".join(str(reason) for reason in said.get("reasons") or ())


def _facts(detail: Mapping[str, Any]) -> str:
    return _reasons(detail) or ", ".join(
        f"{name} {value}" for name, value in detail.items() if isinstance(value, str | int | float)
    )


def _rolled_back(detail: Mapping[str, Any]) -> str:
    asked = f": {detail['reason']}" if detail.get("reason") else ""
    return f"from version {detail['from']} to {detail['to']}{asked}"


def _traffic(detail: Mapping[str, Any]) -> str:
    rules = TrafficRules.from_json(detail["rules"])
    told = [f"{share:.2%} to version {version}" for version, share in sorted(rules.division.shares.items())]
    told += [f"customer {customer} to version {version}" for customer, version in sorted(rules.pins.items())]
    for name, found in (("canary", rules.canary), ("shadow", rules.shadow)):
        told += [] if found is None else [f"{name} version {found.version} {found.share:.2%}"]
    return ", ".join(told)


def _answered(detail: Mapping[str, Any]) -> str:
    try:
        answer: str = Code.parse(str(detail["code"])).answer
    except ApprovalError as error:
        answer = error.what
    return f"{answer}: {detail['reason']}" if detail["reason"] else answer


_SAID: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "incident_opened": lambda said: f"{said['kind']} of version {said['version']}: {_reasons(said['evidence'])}",
    "incident_answered": lambda said: f"training {said['response']}",
    "incident_closed": lambda said: str(said["outcome"]),
    "trained": lambda said: f"{said['outcome']}: version {said['version']}",
    "serving": lambda said: f"because of entry {said.get('because', '(not recorded)')}",
    "rolled_back": _rolled_back,
    "traffic": _traffic,
    "traffic_requested": lambda said: f"asked for by {said['requested_by']}",
    "rollout_begun": lambda said: f"beside version {said['champion']}: {_reasons(said['promotion'])}",
    "rollout_decided": lambda said: f"step {said['step'] + 1}: {said['move']}, {said['reason']}",
    "rollout_ended": lambda said: f"{said['outcome']}: {_reasons(said)}",
    "guard_breached": lambda said: _reasons(said["verdict"]),
    "approval_requested": lambda said: str(said["summary"]),
    "approval_decided": _answered,
}
