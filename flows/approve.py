"""What a person does about approvals: see what waits, answer it, and say who may answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flows.person import user_name
from millrace.approvals import approvers, requests
from millrace.approvals.code import Answer, ApprovalRequest, sign
from millrace.approvals.keys import PrivateKey, key_path, load_key, public_key
from millrace.errors import ServiceError
from millrace.ledger import Ledger
from millrace.settings import Settings


def list_requests(settings: Settings, name: str | None, everything: bool) -> dict[str, Any]:
    """The requests that wait for an answer, or all of them, with their evidence."""
    ledger, now = Ledger(settings.ledger), datetime.now(UTC)
    if name is not None:
        from millrace.spec.load import pipeline_dir

        pipeline_dir(name, settings.pipelines)
    standings = [requests.standing_of(ledger, request, now) for request in requests.requests(ledger, name)]
    shown = [standing for standing in standings if everything or standing.is_open]
    return {"requests": [_told(standing) for standing in shown]}


def print_code(settings: Settings, request: str, answer: Answer, approver: str | None) -> dict[str, Any]:
    """The signed line for the form in the Prefect UI; nothing is decided by it here."""
    asked = requests.find(Ledger(settings.ledger), request)
    name, key = load_key(settings.keys_dir, approver)
    return {"request": request, "answer": answer, "approver": name, "code": sign(asked, answer, name, key, _now()).text}


def answer_request(
    settings: Settings, request: str, answer: Answer, approver: str | None, reason: str
) -> dict[str, Any]:
    """Sign an answer, record it, and have the runs go on that wait for it.

    Raises:
        ConflictError: the request has its answer, or is over.
        ApprovalError: the approver may not answer it.
    """
    ledger = Ledger(settings.ledger)
    asked = requests.find(ledger, request)
    name, key = load_key(settings.keys_dir, approver)
    requests.decide(ledger, asked, sign(asked, answer, name, key, _now()).text, reason=reason, answer=answer)
    resumed, note = _resume(settings, requests.waiting_runs(ledger, asked))
    return {"request": request, "answer": answer, "approver": name, "resumed": resumed, "note": note, **_asked(asked)}


def _resume(settings: Settings, runs: list[str]) -> tuple[list[str], str]:
    """Have suspended runs go on; with Prefect away, the reconciler does it later."""
    from tasks.prefect_api import resume

    try:
        return [run for run in runs if resume(settings, run)], ""
    except ServiceError as error:
        return [], f"it counts; the flow run goes on when Prefect is back ({error.what})"


def add_approver(
    settings: Settings, name: str, *, public: str | None, person: str | None, by: str | None
) -> dict[str, Any]:
    """Enrol an approver: with a new key on this machine, or with the public key that he has sent."""
    ledger = Ledger(settings.ledger)
    path = key_path(settings.keys_dir, name)
    mine = None
    if public is None:
        mine = load_key(settings.keys_dir, name)[1] if path.exists() else PrivateKey.new()
        public = mine.public
    is_first = not approvers.read_roster(ledger).approvers
    if is_first and mine is not None:
        voucher, key = name, mine
    else:
        voucher, key = load_key(settings.keys_dir, by)
    if mine is not None and not path.exists():
        # Before the ledger: an approver whose key is lost could never be used.
        mine.save(path)
    made = approvers.add(ledger, name, public_key(public), person or user_name(), voucher, key)
    return {**_approver(made), "key": str(path) if mine is not None else None}


def remove_approver(settings: Settings, name: str, by: str | None) -> dict[str, Any]:
    """Take an approver off the roster."""
    voucher, key = load_key(settings.keys_dir, by)
    approvers.remove(Ledger(settings.ledger), name, voucher, key)
    return {"name": name, "removed_by": voucher}


def list_approvers(settings: Settings) -> dict[str, Any]:
    """Who may approve, and entries of the ledger that claim a change of it without the right to."""
    roster = approvers.read_roster(Ledger(settings.ledger))
    return {
        "approvers": [_approver(approver) for approver in roster.approvers.values()],
        "ignored": [{"entry": e.sequence, "kind": e.kind, "name": e.subject} for e in roster.ignored],
    }


def _approver(approver: approvers.Approver) -> dict[str, Any]:
    return {
        "name": approver.name,
        "person": approver.person,
        "vouched_by": approver.vouched_by,
        "public_key": approver.public_key,
    }


def _told(standing: requests.Standing) -> dict[str, Any]:
    return {
        "request": standing.request.id,
        "state": standing.state,
        "reason": standing.reason,
        **_asked(standing.request),
        "evidence": standing.request.evidence,
        "refused_tries": list(standing.tries_refused),
    }


def _asked(request: ApprovalRequest) -> dict[str, Any]:
    return {
        "pipeline": request.pipeline,
        "action": request.action,
        "summary": request.summary,
        "requested_by": request.requested_by,
        "subject": request.subject,
        "basis": request.basis,
        "expires_at": request.expires_at.isoformat(),
    }


def _now() -> datetime:
    return datetime.now(UTC)
