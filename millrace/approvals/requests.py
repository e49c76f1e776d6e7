"""Requests for an approval, from the question to its use. What stands is read from the ledger's entries, each time.

Once used, an approval is used up: by the run that did what was approved, which may say so again after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from millrace.approvals.approvers import read_roster
from millrace.approvals.code import Action, Answer, ApprovalRequest, Code
from millrace.approvals.verify import verify
from millrace.errors import ApprovalError, ConflictError, UnknownNameError, nearest
from millrace.ledger import Entry, Fact, Ledger, Token
from millrace.spec import ApprovalsSpec
from millrace.storage import digest_json

REQUESTED = "approval_requested"
AWAITED = "approval_awaited"
DECIDED = "approval_decided"
TRY_REFUSED = "approval_try_refused"
USED = "approval_used"

_REASON_CHARS = 500

State = Literal["open", "approved", "rejected", "expired", "closed", "void", "used"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and by whom. The same question is the same request until its answer has been used."""

    pipeline: str
    action: Action
    subject: str
    basis: str
    requested_by: str
    summary: str
    evidence: str

    @property
    def fact(self) -> tuple[str, ...]:
        return (self.pipeline, self.action, self.subject, self.basis, self.requested_by)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a request stands. `reason` says it in one line; `used_by` is the run that acted on it."""

    request: ApprovalRequest
    state: State
    reason: str
    approver: str | None = None
    used_by: str | None = None
    tries_refused: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    def approves(self, run: str) -> bool:
        """Whether `run` may do what was asked."""
        return self.state == "approved" or (self.state == "used" and self.used_by == run and self.approver is not None)

    def is_over_for(self, run: str) -> bool:
        """Whether another run has used the answer."""
        return self.state == "used" and self.used_by != run


def ask(ledger: Ledger, question: Question, rule: ApprovalsSpec, run: str, now: datetime | None = None) -> Standing:
    """The standing of the question's newest request.

    A new request is made when there is none, or when another run has used its answer.
    """
    now = now or datetime.now(UTC)
    asked = _requests(ledger, question)
    if asked and not (standing := standing_of(ledger, asked[-1], now)).is_over_for(run):
        return standing
    identifier = f"ask-{digest_json([question.fact, len(asked)])[:20]}"
    detail = {
        "action": question.action,
        "subject": question.subject,
        "basis": question.basis,
        "requested_by": question.requested_by,
        "requested_at": now.isoformat(),
        "expires_at": (now + timedelta(hours=rule.expires_hours)).isoformat(),
        "max_tries": rule.max_tries,
        "summary": question.summary,
        "evidence": question.evidence,
    }
    entry, _ = ledger.append(Fact(question.pipeline, REQUESTED, identifier, detail, run, identifier))[0]
    return standing_of(ledger, _request(entry), now)


def newest_of(ledger: Ledger, question: Question, now: datetime | None = None) -> Standing | None:
    """The standing of the question's newest request, or None."""
    asked = _requests(ledger, question)
    return standing_of(ledger, asked[-1], now or datetime.now(UTC)) if asked else None


def find(ledger: Ledger, identifier: str) -> ApprovalRequest:
    """The request with this identifier.

    Raises:
        UnknownNameError: there is none.
    """
    found = ledger.entries(None, REQUESTED, subject=identifier)
    if not found:
        known = [entry.subject for entry in ledger.entries(None, REQUESTED)]
        raise UnknownNameError(
            f"no request '{identifier}'", allowed=nearest(identifier, known), next="`millrace approvals` lists them"
        )
    return _request(found[0])


def requests(ledger: Ledger, pipeline: str | None = None) -> list[ApprovalRequest]:
    """All requests, oldest first."""
    return [_request(entry) for entry in ledger.entries(pipeline, REQUESTED)]


def pending(ledger: Ledger, pipeline: str | None = None, now: datetime | None = None) -> list[Standing]:
    """The requests that wait for an answer, oldest first."""
    moment = now or datetime.now(UTC)
    standings = [standing_of(ledger, request, moment) for request in requests(ledger, pipeline)]
    return [standing for standing in standings if standing.is_open]


def standing_of(ledger: Ledger, request: ApprovalRequest, now: datetime) -> Standing:
    """Where `request` stands at `now`. An approval is verified anew: its approver may be gone by now."""
    entries = ledger.entries(request.pipeline, DECIDED, TRY_REFUSED, USED, subject=request.id)
    used, decided = (next((e for e in entries if e.kind == kind), None) for kind in (USED, DECIDED))
    tries = [e for e in entries if e.kind == TRY_REFUSED and (decided is None or e.sequence < decided.sequence)]
    told = tuple(str(entry.detail["why"]) for entry in tries)
    if used is not None:
        approver = _approver_when_used(ledger, request, decided, used)
        return Standing(request, "used", str(used.detail["reason"]), approver, used.actor, told)
    state, reason, approver = _not_used(ledger, request, decided, now, len(tries))
    return Standing(request, state, reason, approver, None, told)


def _not_used(
    ledger: Ledger, request: ApprovalRequest, decided: Entry | None, now: datetime, tries: int
) -> tuple[State, str, str | None]:
    until = f"{request.expires_at:%Y-%m-%d %H:%M} UTC"
    if tries >= request.max_tries:
        return "closed", f"closed after {tries} codes that do not count", None
    if decided is None:
        return ("expired", f"approval expired: nobody answered until {until}", None) if now >= request.expires_at else (
            "open", f"waits until {until}", None)  # fmt: skip
    note = f" ({decided.detail['reason']})" if decided.detail["reason"] else ""
    try:
        code = Code.parse(str(decided.detail["code"]))
        if code.answer == "reject":
            return "rejected", f"rejected by {code.approver}{note}", None
        verify(code.text, request, read_roster(ledger), now, "approve")
    except ApprovalError as error:
        return "void", error.what, None
    return "approved", f"approved by {code.approver}{note}", code.approver


def _approver_when_used(ledger: Ledger, request: ApprovalRequest, decided: Entry | None, used: Entry) -> str | None:
    """Who approved it, as it could be verified when it was used; None when nobody had."""
    if decided is None or decided.sequence > used.sequence:
        return None
    try:
        return verify(
            str(decided.detail["code"]), request, read_roster(ledger, used.sequence), used.at, "approve"
        ).approver
    except ApprovalError:
        # A rejection, or an entry that somebody wrote without a key: it approves nothing.
        return None


def decide(
    ledger: Ledger,
    request: ApprovalRequest,
    text: str,
    *,
    reason: str = "",
    answer: Answer | None = None,
    once: str | None = None,
    now: datetime | None = None,
) -> Code:
    """Record the answer that the line `text` gives to an open request; a line that does not count is recorded as a try.

    Args:
        reason: A note of the approver; it is not signed.
        answer: What was said beside the line, where it was.
        once: Names the try, where it may come twice.

    Raises:
        ConflictError: the request has its answer, or is over.
        ApprovalError: the line does not count.
    """
    now = now or datetime.now(UTC)
    standing = standing_of(ledger, request, now)
    if not standing.is_open:
        raise ConflictError(
            f"request {request.id} is {standing.state}",
            got=standing.reason,
            next="`millrace approvals` lists open ones",
        )
    try:
        code = verify(text, request, read_roster(ledger), now, answer)
    except ApprovalError as error:
        why = error.what if error.got is None else f"{error.what} (got: {error.got})"
        ledger.append(Fact(request.pipeline, TRY_REFUSED, request.id, {"why": why}, once=once))
        raise
    detail = {"code": code.text, "reason": reason[:_REASON_CHARS]}
    fact = Fact(request.pipeline, DECIDED, request.id, detail, f"person:{code.approver}", request.id)
    entry, is_new = ledger.append(fact)[0]
    if not is_new and entry.detail["code"] != code.text:
        raise ConflictError(
            f"request {request.id} was answered by somebody else meanwhile",
            got=entry.actor,
            next="look at the answer with `millrace approvals --all`",
        )
    return code


def use(
    ledger: Ledger,
    standing: Standing,
    run: str,
    *more: Fact,
    token: Token | None = None,
    now: datetime | None = None,
) -> None:
    """Record that `run` acts on the answer, together with `more`; nobody else can afterwards.

    Raises:
        ApprovalError: another run has, or the approval does not count any more; nothing was recorded.
        FencedError: `token` no longer holds.
    """
    request = standing.request
    detail = {"state": standing.state, "reason": standing.reason}

    def prove() -> None:
        found = standing_of(ledger, request, now or datetime.now(UTC))
        if standing.state == "approved" and found.state not in ("approved", "used"):
            raise ApprovalError(
                f"the approval of {request.id} does not count any more", got=found.reason, next="ask again"
            )

    fact = Fact(request.pipeline, USED, request.id, detail, run, request.id)
    entry = ledger.claim(fact, *more, token=token, prove=prove)
    if entry.actor != run:
        raise ApprovalError(f"the answer to {request.id} was used by another run", got=entry.actor, next="ask again")


def await_answer(ledger: Ledger, request: ApprovalRequest, run: str) -> None:
    """Record that `run` waits, so that it goes on when there is an answer."""
    ledger.append(Fact(request.pipeline, AWAITED, run, {"request": request.id}, run, f"{run}:{request.id}"))


def waiting_runs(ledger: Ledger, request: ApprovalRequest) -> list[str]:
    """The runs that have waited for the answer to `request`."""
    return [e.subject for e in ledger.entries(request.pipeline, AWAITED) if e.detail["request"] == request.id]


def may_go_on(ledger: Ledger, run: str, now: datetime | None = None) -> bool:
    """Whether what the run waits for has been decided, or has expired. A run that waits for nothing of ours may not."""
    awaited: Sequence[Entry] = ledger.entries(None, AWAITED, subject=run)
    if not awaited:
        return False
    request = find(ledger, str(awaited[-1].detail["request"]))
    return not standing_of(ledger, request, now or datetime.now(UTC)).is_open


def _requests(ledger: Ledger, question: Question) -> list[ApprovalRequest]:
    return [known for known in requests(ledger, question.pipeline) if _fact_of(known) == question.fact]


def _fact_of(known: ApprovalRequest) -> tuple[str, ...]:
    return (known.pipeline, known.action, known.subject, known.basis, known.requested_by)


def _request(entry: Entry) -> ApprovalRequest:
    detail = entry.detail
    if detail["action"] not in get_args(Action):
        raise ApprovalError(
            f"request {entry.subject} asks for something unknown",
            got=detail["action"],
            allowed=", ".join(get_args(Action)),
            next="use the Millrace that wrote it",
        )
    return ApprovalRequest(
        id=entry.subject,
        pipeline=entry.pipeline,
        action=detail["action"],
        subject=detail["subject"],
        basis=detail["basis"],
        requested_by=detail["requested_by"],
        requested_at=datetime.fromisoformat(detail["requested_at"]),
        expires_at=datetime.fromisoformat(detail["expires_at"]),
        max_tries=detail["max_tries"],
        summary=detail["summary"],
        evidence=detail["evidence"],
        sequence=entry.sequence,
    )
