"""A fitted language model, and what its predictions are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from millrace.spec import PipelineSpec
from millrace.texts import END, Tokens

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]

# Tokens that the module is given at once: their logits are 16 MB.
_TOKENS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class _Piece:
    """Up to a sequence of one document: what the module sees, and what it is to predict, uint8 [tokens] each."""

    document: int
    seen: Tokens
    wanted: Tokens


@dataclass(frozen=True)
class LanguageModel:
    """The module gives logits [rows, length, vocabulary] for tokens int64 [rows, length], up to the spec's length."""

    spec: PipelineSpec
    module: torch.nn.Module

    def bits(self, documents: Sequence[Tokens]) -> Floats:
        """The bits in which each document, uint8 [bytes + 1], is written down by the model's chances, float64.

        A document is cut into sequences as in training: the model sees what lies before a token in the same sequence,
        and of the one before its last token. The first token is predicted from END.
        """
        length = self.spec.texts.sequence_length
        pieces = [piece for number, each in enumerate(documents) for piece in _cut(number, each, length)]
        # Of like length together: little is filled up.
        pieces.sort(key=lambda piece: len(piece.seen))
        found = np.zeros(len(documents), np.float64)
        at_once = max(1, _TOKENS_AT_ONCE // length)
        for start in range(0, len(pieces), at_once):
            batch = pieces[start : start + at_once]
            np.add.at(found, [piece.document for piece in batch], self._bits_of(batch))
        return found

    def _bits_of(self, pieces: Sequence[_Piece]) -> Floats:
        import torch
        from torch.nn import functional

        longest = max(len(piece.seen) for piece in pieces)
        device = next(self.module.parameters()).device
        seen, wanted = (torch.full((len(pieces), longest), END, dtype=torch.long) for _ in range(2))
        counts = torch.zeros(len(pieces), longest, dtype=torch.bool)
        for row, piece in enumerate(pieces):
            own = slice(0, len(piece.seen))
            seen[row, own] = torch.from_numpy(piece.seen.astype(np.int64))
            wanted[row, own] = torch.from_numpy(piece.wanted.astype(np.int64))
            counts[row, own] = True
        with torch.inference_mode():
            logits = self.module(seen.to(device)).float()
            losses = functional.cross_entropy(logits.flatten(0, 1), wanted.to(device).flatten(), reduction="none")
        # What fills a row up comes after its end, so it changes nothing before, and does not count.
        summed = (losses.cpu().double().view_as(counts) * counts).sum(1) / math.log(2)
        result: Floats = summed.numpy()
        return result


def _cut(number: int, document: Tokens, length: int) -> Iterator[_Piece]:
    seen = np.concatenate([[END], document[:-1]]).astype(np.uint8)
    for start in range(0, len(document), length):
        yield _Piece(number, seen[start : start + length], document[start : start + length])
