"""Writes a token stream as shards of sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.errors import DataError
from millrace.shards.columns import Column
from millrace.shards.writer import ShardWriter

#: Sequences of about so many bytes make a shard: long enough that an object store's latency is little of its read.
_SHARD_BYTES = 16 << 20


def smallest_token_dtype(vocabulary_size: int) -> str:
    """The smallest unsigned dtype that holds every token of a vocabulary."""
    return next(dtype for dtype in ("<u1", "<u2", "<u4", "<u8") if vocabulary_size - 1 <= np.iinfo(dtype).max)


class TokenWriter(ShardWriter):
    """A stream of tokens, cut into sequences of `sequence_length` + 1 tokens, in the column `tokens`.

    A sequence begins with the last token of the one before, so each token but the first is predicted exactly once. The
    end of the stream that fills no sequence is left out: `num_left_out` tokens.
    """

    kind = "tokens"

    def __init__(
        self, folder: Path, *, sequence_length: int, vocabulary_size: int, samples_per_shard: int | None = None
    ) -> None:
        if sequence_length < 1 or vocabulary_size < 1:
            raise DataError(
                "tokens cannot be written so",
                got=f"sequence_length {sequence_length}, vocabulary_size {vocabulary_size}",
                allowed="1 or more each",
                next="correct the call",
            )
        column = Column("tokens", smallest_token_dtype(vocabulary_size), (sequence_length + 1,))
        samples = samples_per_shard or max(1, _SHARD_BYTES // column.num_bytes)
        super().__init__(folder, [column], samples_per_shard=samples)
        self.sequence_length, self.vocabulary_size = sequence_length, vocabulary_size
        self._rest: npt.NDArray[Any] = np.empty(0, column.dtype)

    @property
    def num_left_out(self) -> int:
        return max(0, len(self._rest) - 1)

    def write(self, tokens: npt.NDArray[Any]) -> None:  # type: ignore[override]
        """Append `tokens`, [n] integers.

        Raises:
            DataError: one is not of the vocabulary.
        """
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise DataError("tokens are integers in one row", got=f"{tokens.dtype}{list(tokens.shape)}", next="flatten")
        if len(tokens) and not (int(tokens.min()) >= 0 and int(tokens.max()) < self.vocabulary_size):
            raise DataError(
                "a token is not of the vocabulary",
                got=f"{int(tokens.min())} to {int(tokens.max())}",
                allowed=f"0 to {self.vocabulary_size - 1}",
                next="check the tokenizer, or give its vocabulary_size",
            )
        stream = np.concatenate([self._rest, tokens.astype(self.columns[0].dtype, copy=False)])
        num_whole = max(0, (len(stream) - 1) // self.sequence_length)
        if num_whole:
            windows = np.lib.stride_tricks.sliding_window_view(stream, self.sequence_length + 1)
            super().write({"tokens": windows[:: self.sequence_length][:num_whole]})
        self._rest = stream[num_whole * self.sequence_length :].copy()
