"""Whether an answer counts: a pure function of the line, the request, the roster and the time."""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta

from millrace.approvals.approvers import Approver, Roster
from millrace.approvals.code import Answer, ApprovalRequest, Code
from millrace.approvals.keys import is_signed
from millrace.errors import ApprovalError

#: How far the clocks of an approver and of a flow may differ.
CLOCK_SKEW = timedelta(minutes=2)


def verify(text: str, request: ApprovalRequest, roster: Roster, now: datetime, answer: Answer | None = None) -> Code:
    """The answer that `text` gives to `request`.

    Args:
        now: The moment at which it must hold.
        answer: What the person said beside the line, where he did; the line must say the same.

    Raises:
        ApprovalError: it does not count; the message says why.
    """
    code = Code.parse(text)
    if code.request != request.id:
        raise _refused("it answers another request", got=code.request, allowed=request.id)
    if answer is not None and code.answer != answer:
        raise _refused(f"the code says {code.answer}, the form {answer}")
    _check_times(code, request, now)
    approver = roster.find(code.approver)
    if approver.since > request.sequence and not approver.is_first:
        # Else whoever asks could enrol a second self to answer.
        raise _refused(f"'{approver.name}' became an approver after this was asked", next="have another one answer")
    if not is_signed(approver.public_key, code.signature, code.content(request)):
        raise _refused(f"the signature is not that of '{approver.name}' under this request")
    if asked_himself(approver, request.requested_by):
        raise _refused(f"'{approver.name}' asked for it himself", next="have another one answer")
    return code


def asked_himself(approver: Approver, requested_by: str) -> bool:
    """Whether the approver is the person who asked."""
    person = _plain(requested_by.partition("person:")[2] or requested_by)
    return person in (_plain(approver.name), _plain(approver.person))


def _check_times(code: Code, request: ApprovalRequest, now: datetime) -> None:
    if now >= min(code.expires_at, request.expires_at):
        raise _refused("it has expired", got=f"{min(code.expires_at, request.expires_at):%Y-%m-%d %H:%M} UTC")
    if code.expires_at > request.expires_at:
        raise _refused("it claims to hold longer than the request")
    if code.issued_at > now + CLOCK_SKEW:
        raise _refused(
            "it was given in the future", got=f"{code.issued_at:%Y-%m-%d %H:%M:%S} UTC", next="set the clock"
        )
    if code.issued_at < request.requested_at - CLOCK_SKEW:
        raise _refused("it was given before anybody asked", got=f"{code.issued_at:%Y-%m-%d %H:%M:%S} UTC")


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _refused(why: str, *, got: str | None = None, allowed: str | None = None, next: str | None = None) -> ApprovalError:
    return ApprovalError(
        f"the approval does not count: {why}",
        got=got,
        allowed=allowed,
        next=next or "make a new one with `millrace approve REQUEST --code`",
    )
