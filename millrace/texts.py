"""What a model learns of its inputs when they are texts: no documents, only sizes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextInputs:
    """Sequences of `sequence_length` tokens, each one of `vocabulary`."""

    vocabulary: int
    sequence_length: int
