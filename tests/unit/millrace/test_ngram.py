"""Chances that sum to one, and are those that the counts say."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace import ngram
from millrace.errors import ConfigError
from millrace.ngram import ByteNgram
from millrace.texts import END, Tokens, encode

TEXTS = st.lists(st.text("abcä", min_size=1, max_size=30), max_size=6)


def fitted(order: int, texts: list[str]) -> ByteNgram:
    model = ByteNgram(order)
    model.add([encode(text) for text in texts])
    return model


def by_hand(texts: list[str], before: bytes, last: int) -> float:
    """Witten and Bell's formula, a run at a time."""
    chance = 1 / 256
    for length in range(len(before) + 1):
        run = before[len(before) - length :]
        followers = Counter(
            padded[place + length]
            for padded in (bytes([END]) * len(before) + bytes(encode(text)) for text in texts)
            for place in range(len(before) - length, len(padded) - length)
            if padded[place : place + length] == run
        )
        if followers:
            kinds = len(followers)
            chance = (followers[last] + kinds * chance) / (followers.total() + kinds)
    return chance


@given(TEXTS, st.binary(max_size=4))
def test_the_chances_of_all_bytes_sum_to_one(texts: list[str], before: bytes) -> None:
    model = fitted(len(before) + 1, texts)
    start = int.from_bytes(before) << 8
    chances = model.chances(np.arange(start, start + 256, dtype=np.uint64))
    assert chances.sum() == pytest.approx(1.0)
    assert chances.min() > 0


@given(TEXTS, st.binary(max_size=3), st.sampled_from([*b"abc", END, 0]))
def test_a_chance_is_what_the_formula_says(texts: list[str], before: bytes, last: int) -> None:
    model = fitted(len(before) + 1, texts)
    key = np.array([int.from_bytes(before + bytes([last]))], np.uint64)
    assert model.chances(key)[0] == pytest.approx(by_hand(texts, before, last))


@given(TEXTS, st.lists(st.text("abcä", max_size=20), min_size=1, max_size=3), st.integers(1, 4))
def test_bits_are_those_of_a_documents_bytes_one_after_the_other(
    texts: list[str], documents: list[str], order: int
) -> None:
    found = fitted(order, texts).bits([encode(document) for document in documents])
    for document, bits in zip(documents, found, strict=True):
        stream = bytes([END]) * (order - 1) + bytes(encode(document))
        chances = [by_hand(texts, stream[at - order + 1 : at], stream[at]) for at in range(order - 1, len(stream))]
        assert bits == pytest.approx(-sum(map(math.log2, chances)))


@given(TEXTS, st.integers(1, 8))
def test_it_does_not_matter_in_which_parts_documents_come(texts: list[str], order: int) -> None:
    whole, parts = fitted(order, texts), ByteNgram(order)
    for text in reversed(texts):
        parts.add([encode(text)])
        parts.bits([encode("counts what has come so far")])
    probe: list[Tokens] = [encode("abcab"), encode("ä")]
    assert np.array_equal(whole.bits(probe), parts.bits(probe))
    assert whole.num_tokens == parts.num_tokens == sum(len(encode(text)) for text in texts)


def test_it_is_counted_whenever_much_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["abc" * 5, "cab" * 9, "bb"]
    expected = fitted(3, texts).bits([encode("abcb")])
    monkeypatch.setattr(ngram, "_TOKENS_AT_ONCE", 10)
    assert np.array_equal(fitted(3, texts).bits([encode("abcb")]), expected)


def test_longer_runs_know_more_of_what_they_have_seen() -> None:
    text = "for name in names: print(name)\n" * 20
    documents = [encode(text)]
    bits = [fitted(order, [text]).bits(documents)[0] for order in (1, 3, 6)]
    assert bits[0] > 2 * bits[1] > 2 * bits[2]
    untaught = ByteNgram(1).bits(documents)[0]
    assert untaught == pytest.approx(8 * len(documents[0]))


@pytest.mark.parametrize("order", [0, 9])
def test_an_order_that_does_not_fit_a_key_is_refused(order: int) -> None:
    with pytest.raises(ConfigError, match="1 to 8"):
        ByteNgram(order)
