"""Which samples of a global batch a rank takes."""

from __future__ import annotations


def share(batch_size: int, rank: int, world_size: int) -> slice:
    """The rows of a global batch that `rank` of `world_size` takes; the ranks' rows in order are the batch.

    Shares differ by at most one row, and none is empty when batch_size >= world_size.
    """
    return slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
