"""Which trace a request belongs to: W3C Trace Context (https://www.w3.org/TR/trace-context/), version 00.

A caller that sends `traceparent` gets its own trace continued; any other one, or one whose header is broken, begins a
new trace, as the recommendation demands. Whether the caller records its trace changes nothing: every request is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millrace.ids import Ids

TRACEPARENT = b"traceparent"
TRACESTATE = b"tracestate"

Headers = Sequence[tuple[bytes, bytes]]

#: Characters of version 00.
LENGTH = 55
TRACE_ID, SPAN_ID = slice(3, 35), slice(36, 52)
_DIGITS, _DASH = b"0123456789abcdef", ord("-")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
#: What each byte is: a digit becomes 0, a dash stays one, anything else is neither. A whole header is then `_SHAPE`.
_KINDS = bytes(ord("0") if byte in _DIGITS else byte if byte == _DASH else ord("?") for byte in range(256))
_SHAPE = b"00-" + _NO_TRACE + b"-" + _NO_SPAN + b"-00"
#: Hardly any valid header has it: one of its ids then begins with as many zeros.
_ZEROS = b"-" + _NO_SPAN
#: Flags of which bit 1 (level 2: the trace's id is random) is set: who continues the trace hands it on.
_RANDOM = frozenset(b"2367abef")

_MOST_MEMBERS, _MOST_CHARS, _LONG_MEMBER = 32, 512, 128
_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(rf"[ \t]*(?:(?:{_KEY})=(?:{_VALUE}))?[ \t]*")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span's place in its trace.

    `traceparent` names it: the trace and the span itself. `parent` is the header that its caller sent, if it did and
    the header is valid; `sent`, all its headers, hold the trace's state then.
    """

    traceparent: bytes
    parent: bytes | None = None
    sent: Headers = ()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return self.traceparent[TRACE_ID].decode()

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        return span_id_of(self.traceparent)

    @property
    def parent_id(self) -> str | None:
        """The caller's span, 16 hexadecimal digits."""
        return None if self.parent is None else span_id_of(self.parent)

    @property
    def state(self) -> str:
        """What `tracestate` is handed on as."""
        states = [] if self.parent is None else [value for name, value in self.sent if name == TRACESTATE]
        return parse_tracestate(states) if states else ""

    def headers(self) -> dict[str, str]:
        """What a request that this span sends to another service carries."""
        headers = {"traceparent": self.traceparent.decode()}
        return headers | {"tracestate": state} if (state := self.state) else headers

    def child(self) -> TraceContext:
        """A span below this one."""
        return TraceContext(continued(self.traceparent), self.traceparent, self.sent)


_NEW: Ids[bytes] = Ids(48, lambda digits: f"00-{digits[:32]}-{digits[32:]}-01".encode())
_NEW_SPANS: Ids[bytes] = Ids(16, lambda digits: f"{digits}-01".encode())

#: What names a span that begins a trace.
new_traceparent = _NEW.new
_new_span = _NEW_SPANS.new


def continued(parent: bytes) -> bytes:
    """What names a new span below the one that `parent`, which is valid, names."""
    own = parent[:36] + _new_span()
    if parent[LENGTH - 1] in _RANDOM:
        own = own[:-1] + b"3"
    return own if own.startswith(b"00") else b"00" + own[2:]


def context_of(headers: Headers) -> TraceContext:
    """The context of a request with these headers, whose names are in lower case. It never fails."""
    parents = [value for name, value in headers if name == TRACEPARENT]
    # Two of them are as good as none.
    parent = parse_traceparent(parents[0]) if len(parents) == 1 else None
    return TraceContext(new_traceparent() if parent is None else continued(parent), parent, headers)


def parse_traceparent(value: bytes) -> bytes | None:
    """The header as version 00 has it, 55 characters; None where it is to be ignored.

    A later version is read as far as version 00 goes, as the recommendation demands.
    """
    if len(value) != LENGTH:
        value = value.strip(b" \t")
        if len(value) > LENGTH and (value[:2] == b"00" or value[LENGTH] != _DASH):
            return None
        value = value[:LENGTH]
    if value.translate(_KINDS) != _SHAPE or value.startswith(b"ff"):
        return None
    if _ZEROS in value and (value.startswith(_NO_TRACE, 3) or value.startswith(_NO_SPAN, 36)):
        return None
    return value


def parse_tracestate(values: Sequence[bytes]) -> str:
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


def span_id_of(traceparent: bytes) -> str:
    """The id of the span that this names."""
    return traceparent[SPAN_ID].decode()


def ids_of(traceparents: bytes) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The ids of the n traces, [n, 16], and spans, [n, 8], that these name, one put behind the other."""
    digits = np.frombuffer(traceparents, np.uint8).reshape(-1, LENGTH)
    traces, spans = (bytes.fromhex(digits[:, place].tobytes().decode()) for place in (TRACE_ID, SPAN_ID))
    return np.frombuffer(traces, np.uint8).reshape(-1, 16), np.frombuffer(spans, np.uint8).reshape(-1, 8)
