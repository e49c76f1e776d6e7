"""The rows that loaders and writers are measured on: 256 MB in rows of 4 kB, on this machine's disk."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.shards import Column

NUM_ROWS, WIDTH, PER_SHARD, BATCH = 65_536, 1024, 4096, 256
NUM_BYTES = NUM_ROWS * WIDTH * 4
COLUMN = Column("x", "<f4", (WIDTH,))


def rows() -> npt.NDArray[Any]:
    """Rows [NUM_ROWS, WIDTH] that do not compress, the same at each call."""
    return np.random.default_rng(1).random((NUM_ROWS, WIDTH), dtype=np.float32)
