"""Labelled rows of a staged set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from millrace.dataset import StagedSet, labelled_rows
from millrace.errors import DataError
from millrace.spec import TableSpec
from millrace.storage import ObjectStore
from millrace.window import Window


def labelled(
    store: ObjectStore, staged: StagedSet, data: TableSpec, window: Window, features: Sequence[str] | None = None
) -> Iterator[pd.DataFrame]:
    """The rows of `window` whose outcome had arrived when the set was staged, a staged shard at a time.

    They have the label, and all or the given features.

    Raises:
        DataError: there is none.
    """
    label = [data.label.column, data.label.known_at or data.event_time]
    wanted = [*(data.features if features is None else features), *label]
    num_rows = num_labelled = 0
    for part in staged.parts(store, data, window, wanted):
        rows = labelled_rows(part, data, staged.as_of)
        num_rows, num_labelled = num_rows + len(part), num_labelled + len(rows)
        if len(rows):
            yield rows
    if not num_rows:
        raise staged.no_rows(window)
    if not num_labelled:
        raise DataError(
            f"no labelled rows in {window}",
            allowed="at least one",
            next="give a later as_of, or check data.label.known_at and data.label.delay_days",
        )


def read_labelled(
    store: ObjectStore, staged: StagedSet, data: TableSpec, window: Window, features: Sequence[str] | None = None
) -> pd.DataFrame:
    """As `labelled`, in one table.

    Raises:
        DataError: there is no such row.
    """
    return pd.concat(labelled(store, staged, data, window, features), ignore_index=True)
