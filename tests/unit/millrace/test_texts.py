"""A document becomes bytes and comes back as it was, alone or in a stream of others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millrace.texts import END, decode, encode

DOCUMENTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=8)


@given(DOCUMENTS)
def test_a_stream_of_documents_gives_them_back(documents: list[str]) -> None:
    stream = np.concatenate([np.zeros(0, np.uint8), *map(encode, documents)])
    assert list(decode(stream)) == documents


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_only_its_end_is_one(document: str) -> None:
    tokens = encode(document)
    assert tokens.dtype == np.uint8
    assert list(np.flatnonzero(tokens == END)) == [len(document.encode())]


def test_what_has_no_end_is_no_document() -> None:
    assert list(decode(np.concatenate([encode("one"), encode("two")[:-1]]))) == ["one"]
