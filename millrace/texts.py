"""Documents as a language model sees them: their bytes, one token each, and a token after the last.

A byte is its own token. 255 ends a document: UTF-8 has no such byte, so no document holds it, and 256 tokens do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 256
END = 255

#: Tokens as they are stored.
Tokens = NDArray[np.uint8]


@dataclass(frozen=True)
class TextInputs:
    """What a model learns of its inputs when they are texts: sequences of `sequence_length` tokens, each one of
    `vocabulary`; no documents."""

    vocabulary: int
    sequence_length: int


def encode(document: str) -> Tokens:
    """The tokens of a document, uint8 [bytes + 1]: its UTF-8, then END.

    Raises:
        UnicodeEncodeError: it holds a lone surrogate; the contract lets none through.
    """
    return np.frombuffer(document.encode() + bytes([END]), np.uint8)


def decode(tokens: Tokens) -> Iterator[str]:
    """The documents that a stream of tokens holds, uint8 [tokens]; what follows the last END is no whole document.

    Raises:
        UnicodeDecodeError: bytes that are no UTF-8.
    """
    *whole, _ = tokens.tobytes().split(bytes([END]))
    for document in whole:
        yield document.decode()
