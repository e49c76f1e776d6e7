"""Bad input to make: values of any shape, valid documents with a few things wrong, bytes with a few bytes wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

#: Texts that programs trip over: controls, lone surrogates, right-to-left marks, other digits, very long ones.
texts = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(codec=None, exclude_categories=()), max_size=6),
    st.sampled_from(
        ["", " ", "\x00", "\n", "\r\n\t", "\ud800", "\u202eabc", "١٢٣", "NaN", "-inf", "1e999", "null", "~"]
    ),
    st.sampled_from(
        ["a" * 5000, "é" * 3000, "../../etc/passwd", "{x}", "%s%n", "__class__", "🦖" * 40, "0x" + "f" * 4000]
    ),
)

numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 10**4200, 1e308, 5e-324, 3.5e38]),
)

scalars = st.one_of(st.none(), st.booleans(), numbers, texts)

values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


def examples(divisor: float = 1) -> settings:
    """As many examples as the profile says, or a part of them where each costs much."""
    return settings(max_examples=max(5, int(settings.default.max_examples / divisor)))


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Each container with each of its keys or positions."""
    inside = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(inside):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


@st.composite
def mutated(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """`document` with one to `most` things wrong: values swapped, dropped, added, renamed, doubled, or moved."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(changed))
        if not places:
            return draw(values)
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["replace", "replace", "drop", "add", "rename", "wrap", "move"])):
            case "replace":
                holder[key] = draw(values)
            case "drop":
                del holder[key]
            case "add" if isinstance(holder, dict):
                holder[draw(texts)] = draw(values)
            case "add":
                holder.insert(0, draw(values))
            case "rename" if isinstance(holder, dict):
                holder[draw(st.one_of(texts, st.just(f"{key}s")))] = holder.pop(key)
            case "wrap":
                holder[key] = [holder[key]]
            case _:
                other, there = places[draw(st.integers(0, len(places) - 1))]
                holder[key] = copy.deepcopy(other[there])
    return changed


@st.composite
def mangled(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` cut, or with bytes flipped, taken out, put in, or a piece repeated."""
    raw = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        match draw(st.sampled_from(["cut", "flip", "flip", "remove", "insert", "repeat", "zero"])):
            case "cut":
                del raw[at:]
            case "flip" if raw:
                raw[at] ^= draw(st.integers(1, 255))
            case "remove":
                del raw[at : at + draw(st.integers(1, 20))]
            case "insert":
                raw[at:at] = draw(
                    st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from([b"\n", b"{", b'"', b"\xff"]))
                )
            case "repeat":
                raw[at:at] = raw[at : at + draw(st.integers(1, 200))]
            case _:
                raw[at : at + 8] = bytes(len(raw[at : at + 8]))
    return bytes(raw)
