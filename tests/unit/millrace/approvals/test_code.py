"""A line says what its approver signed, and nothing else can be read from it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from millrace.approvals import code
from millrace.approvals.approvers import Approver, Roster
from millrace.approvals.code import ApprovalRequest, Code, sign
from millrace.approvals.keys import PrivateKey, is_signed
from millrace.approvals.verify import CLOCK_SKEW, verify
from millrace.errors import ApprovalError
from millrace.secrets import redact

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = PrivateKey.new()
REQUEST = ApprovalRequest(
    id="ask-" + "0123456789" * 2,
    pipeline="tiny",
    action="promote",
    subject="a" * 64,
    basis="b" * 64,
    requested_by="millrace",
    requested_at=NOW,
    expires_at=NOW + timedelta(hours=1),
    max_tries=3,
    summary="let version 2 serve",
    evidence="",
    sequence=10,
)
ROSTER = Roster({"alice": Approver("alice", KEY.public, "alice", 1, True, "alice")}, (), "")
CODE = sign(REQUEST, "approve", "alice", KEY, NOW)
LINE = CODE.text


def test_a_line_can_be_read_and_counts() -> None:
    assert Code.parse(LINE) == CODE
    assert verify(LINE, REQUEST, ROSTER, NOW) == CODE
    assert verify(f"  {LINE}\n", REQUEST, ROSTER, NOW, "approve") == CODE
    assert len(LINE) < 200


def test_a_line_that_looks_like_a_secret_is_signed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed with this key and nonce it has `-sk-` and more in it, which is masked wherever it is written down."""
    nonces = iter(["0000000000004603", "0000000000004604"])
    monkeypatch.setattr(code.secrets, "token_hex", lambda _: next(nonces))
    key = PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    request = replace(REQUEST, id="ask-" + "0" * 20, requested_at=now, expires_at=now + timedelta(hours=1))
    signed = sign(request, "approve", "alice", key, now)
    assert redact(signed.text) == signed.text
    assert is_signed(key.public, signed.signature, signed.content(request))
    assert next(nonces, "none left") == "none left"


@given(position=st.integers(0, len(LINE) - 1), character=st.characters())
@settings(max_examples=300, deadline=None)
def test_no_character_can_be_another(position: int, character: str) -> None:
    assume(character != LINE[position])
    changed = LINE[:position] + character + LINE[position + 1 :]
    # White space around a line is no part of it.
    assume(changed.strip() != LINE)
    with pytest.raises(ApprovalError):
        verify(changed, REQUEST, ROSTER, NOW)


@given(text=st.text(max_size=500))
@settings(max_examples=200, deadline=None)
def test_whatever_is_pasted_is_refused_with_our_error(text: str) -> None:
    with pytest.raises(ApprovalError) as caught:
        verify(text, REQUEST, ROSTER, NOW)
    assert caught.value.next


@given(start=st.integers(0, len(LINE)), end=st.integers(0, len(LINE)))
@settings(max_examples=100, deadline=None)
def test_no_part_of_a_line_counts(start: int, end: int) -> None:
    assume((start, end) != (0, len(LINE)))
    with pytest.raises(ApprovalError):
        verify(LINE[start:end], REQUEST, ROSTER, NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"pipeline": "tinz"},
        {"action": "retrain"},
        {"subject": "c" * 64},
        {"basis": "c" * 64},
        {"id": "ask-" + "f" * 20},
    ],
)
def test_the_signature_covers_what_was_asked(change: dict[str, str]) -> None:
    with pytest.raises(ApprovalError, match="does not count"):
        verify(LINE, replace(REQUEST, **change), ROSTER, NOW)  # type: ignore[arg-type]


@given(seconds=st.integers(-200_000, 200_000))
@settings(max_examples=200, deadline=None)
def test_it_counts_exactly_from_its_issue_to_its_expiry(seconds: int) -> None:
    moment = NOW + timedelta(seconds=seconds)
    expected = NOW - CLOCK_SKEW <= moment < REQUEST.expires_at
    try:
        verify(LINE, REQUEST, ROSTER, moment)
        counted = True
    except ApprovalError:
        counted = False
    assert counted == expected


@given(content=st.binary(max_size=64), other=st.binary(max_size=64))
@settings(max_examples=50, deadline=None)
def test_a_signature_is_of_its_content_and_its_key(content: bytes, other: bytes) -> None:
    signature = KEY.sign(content)
    assert is_signed(KEY.public, signature, content)
    assert is_signed(KEY.public, signature, other) == (content == other)
    assert not is_signed(PrivateKey.new().public, signature, content)


def test_one_who_enrolled_after_the_question_may_not_answer_unless_he_is_the_first() -> None:
    late = replace(ROSTER.approvers["alice"], since=11)
    assert verify(LINE, REQUEST, Roster({"alice": late}, (), ""), NOW)
    with pytest.raises(ApprovalError, match="became an approver after this was asked"):
        verify(LINE, REQUEST, Roster({"alice": replace(late, is_first=False)}, (), ""), NOW)
