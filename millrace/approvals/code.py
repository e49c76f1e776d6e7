"""An approver's answer as one line of text, signed: what `millrace approve --code` prints and the form takes.

    ask-5d1c….approve.alice.20261125T073305Z.20261126T073305Z.NONCE.SIGNATURE

The signature covers more than the line says: the request's pipeline, action, subject and basis, taken from the
ledger by whoever verifies. A line therefore fits one request and no other, whatever is written into it.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from millrace.approvals.keys import NAME, PrivateKey
from millrace.errors import ApprovalError
from millrace.secrets import redact
from millrace.storage import canonical_json

Action = Literal["retrain", "promote", "change_threshold"]
Answer = Literal["approve", "reject"]

#: How the identifier of a request looks.
REQUEST_ID = re.compile(r"ask-[0-9a-f]{20}")

_PURPOSE = "millrace approval 1"
_MAX_CHARS = 400
_TIME = "%Y%m%dT%H%M%SZ"
_NONCE = re.compile(r"[0-9a-f]{16}")
_PARTS = 7


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What a person is asked.

    `subject` is the digest of what would be done (the package that would serve, the thresholds that would hold, the
    pipeline that would be trained), `basis` the digest of why (the verdict, the thresholds before, the incident).
    `sequence` is the number of its entry in the ledger.
    """

    id: str
    pipeline: str
    action: Action
    subject: str
    basis: str
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    max_tries: int
    summary: str
    evidence: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Code:
    """The parts of a signed answer."""

    request: str
    answer: Answer
    approver: str
    issued_at: datetime
    expires_at: datetime
    nonce: str
    signature: str = ""

    @property
    def text(self) -> str:
        return ".".join((*self._said, self.signature))

    @property
    def _said(self) -> tuple[str, ...]:
        times = (self.issued_at.strftime(_TIME), self.expires_at.strftime(_TIME))
        return (self.request, self.answer, self.approver, *times, self.nonce)

    def content(self, request: ApprovalRequest) -> bytes:
        """What is signed: the answer, and all that it is an answer to."""
        asked = (request.pipeline, request.action, request.subject, request.basis)
        return canonical_json([_PURPOSE, *self._said, request.id, *asked])

    @classmethod
    def parse(cls, text: str) -> Code:
        """The parts of a line.

        Raises:
            ApprovalError: it is none of ours.
        """
        parts = text.strip().split(".") if len(text) <= _MAX_CHARS else []
        if len(parts) != _PARTS:
            raise _unreadable(f"{len(parts)} parts" if parts else f"{len(text)} characters")
        request, answer, approver, issued, expires, nonce, signature = parts
        fits = REQUEST_ID.fullmatch(request) and NAME.fullmatch(approver) and _NONCE.fullmatch(nonce)
        if not fits or answer not in get_args(Answer):
            raise _unreadable("a part that is not spelt as it must be")
        code = cls(request, answer, approver, _time(issued), _time(expires), nonce, signature)  # type: ignore[arg-type]
        if code.text != text.strip():
            raise _unreadable("a time that is not spelt as it must be")
        return code


def sign(request: ApprovalRequest, answer: Answer, approver: str, key: PrivateKey, now: datetime) -> Code:
    """The approver's answer to `request`; it holds as long as the request."""
    moment = now.astimezone(UTC).replace(microsecond=0)
    expires = request.expires_at.replace(microsecond=0)
    while True:
        unsigned = Code(request.id, answer, approver, moment, expires, secrets.token_hex(8))
        code = replace(unsigned, signature=key.sign(unsigned.content(request)))
        # One in 100,000 signatures has the shape of some service's token, and would be masked in the ledger.
        if redact(code.signature) == code.signature:
            return code


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise _unreadable("a time that is none") from None


def _unreadable(got: str) -> ApprovalError:
    return ApprovalError(
        "this is no approval code",
        got=got,
        allowed="the one line that `millrace approve REQUEST --code` prints",
        next="copy the whole line",
    )
