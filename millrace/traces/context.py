"""Which trace a request belongs to: W3C Trace Context (https://www.w3.org/TR/trace-context/), version 00.

A caller that sends `traceparent` gets its own trace continued; any other one, or one whose header is broken, begins a
new trace, as the recommendation demands. Whether the caller records its trace changes nothing: every request is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"

Headers = Sequence[tuple[bytes, bytes]]

#: Bit 0: recorded. Bit 1 (level 2): the trace's id is random; who continues the trace hands it on.
_SAMPLED, _RANDOM = 0x01, 0x02

_LENGTH = 55
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16

_MOST_MEMBERS, _MOST_CHARS, _LONG_MEMBER = 32, 512, 128
_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(rf"[ \t]*(?:(?:{_KEY})=(?:{_VALUE}))?[ \t]*")

_REFILL = 256

#: Random digits that were not given out yet: for a trace (32) and a span (16). Asking the system for each costs more
#: than everything else about a trace; and unlike a generator that is seeded once, these cannot come twice: a forked
#: process drops them.
_digits: list[str] = []
os.register_at_fork(after_in_child=_digits.clear)


@dataclass(slots=True)
class TraceContext:
    """One span's place: its trace (32 hexadecimal digits), itself (16), its parent (16, or None) and the state."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    flags: int = _SAMPLED
    state: str = ""

    def traceparent(self) -> bytes:
        """What names this span to another party."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode()

    def headers(self) -> dict[str, str]:
        """What a request that this span sends to another service carries."""
        headers = {"traceparent": self.traceparent().decode()}
        return headers | {"tracestate": self.state} if self.state else headers

    def child(self) -> TraceContext:
        """A span below this one."""
        return TraceContext(self.trace_id, new_span_id(), self.span_id, self.flags, self.state)


def new_span_id() -> str:
    """16 random hexadecimal digits that no process has been given before."""
    return _random_digits()[:16]


def _random_digits() -> str:
    while True:
        try:
            return _digits.pop()
        except IndexError:
            text = os.urandom(24 * _REFILL).hex()
            _digits.extend(text[start : start + 48] for start in range(0, len(text), 48))


def context_of(headers: Headers) -> TraceContext:
    """The context of a request with these headers, whose names are in lower case. It never fails."""
    parent: bytes | None = None
    for name, value in headers:
        if name == TRACEPARENT:
            # Two of them are as good as none.
            parent = value if parent is None else b""
    digits = _random_digits()
    if parent is None or (found := parse_traceparent(parent)) is None:
        return TraceContext(digits[:32], digits[32:])
    trace_id, parent_id, flags = found
    states = [value for name, value in headers if name == TRACESTATE]
    state = parse_tracestate(states) if states else ""
    return TraceContext(trace_id, digits[32:], parent_id, flags & _RANDOM | _SAMPLED, state)


def parse_traceparent(value: bytes) -> tuple[str, str, int] | None:
    """The ids of the trace and of the caller's span, and the flags; None where the header is to be ignored.

    A later version is read as far as version 00 goes, as the recommendation demands.
    """
    text = value.decode("latin-1").strip(" \t")
    match = _PARENT.match(text)
    if match is None:
        return None
    version, trace_id, parent_id, flags = match.groups()
    if version == "ff" or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    if len(text) > _LENGTH and (version == "00" or text[_LENGTH] != "-"):
        return None
    return trace_id, parent_id, int(flags, 16)


def parse_tracestate(values: list[bytes]) -> str:
    """The state that the headers, in their order, hold; empty where a member is broken or there are too many.

    Up to 512 characters it is handed on as it came. Of a longer one the members of more than 128 characters go first,
    then those at the end, which are the oldest.
    """
    text = ",".join(value.decode("latin-1") for value in values)
    members = text.split(",")
    filled = [member.strip(" \t") for member in members if member.strip(" \t")]
    if len(filled) > _MOST_MEMBERS or not all(_MEMBER.fullmatch(member) for member in members):
        return ""
    if len(text) <= _MOST_CHARS:
        return text if filled else ""
    if len(",".join(filled)) > _MOST_CHARS:
        filled = [member for member in filled if len(member) <= _LONG_MEMBER]
    while len(",".join(filled)) > _MOST_CHARS:
        filled.pop()
    return ",".join(filled)
