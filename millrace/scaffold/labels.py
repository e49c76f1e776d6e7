"""What sort of answer a label column asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from millrace.errors import SourceError
from millrace.spec import Metric

MAX_CLASSES = 50
#: What is beyond is infinite for the model, and quarantined.
LARGEST = float(np.finfo(np.float32).max)
_MAX_WHOLE_CLASSES = 10
_POSITIVE = ("yes", "true", "y", "t", "1", "positive", "pos", "churned", "churn", "late", "fraud", "default", "bad")
_MOSTLY = 0.95


@dataclass(frozen=True)
class LabelPlan:
    """The inferred label. `scale` is the spread of its metric, from which tolerances are taken."""

    kind: str
    positive: str | None
    classes: tuple[str, ...]
    metric: Metric
    scale: float
    why: str


def infer_label(column: pd.Series) -> LabelPlan:
    """The kind of label, from the cells that are known.

    Raises:
        SourceError: no cell is known, all are equal, or they are texts of too many sorts.
    """
    known = column.dropna()
    if known.empty:
        raise SourceError(f"label column '{column.name}' has no known value", next="name another column with --label")
    counts = as_text(known).value_counts()
    if len(counts) == 1:
        raise SourceError(
            f"label column '{column.name}' has one value only, so there is nothing to learn",
            got=counts.index[0],
            allowed="at least two values",
            next="name another column, or give a table with both outcomes",
        )
    numbers = pd.to_numeric(known, errors="coerce").astype("float64")
    is_number = bool(numbers.notna().mean() >= _MOSTLY)
    if len(counts) == 2:
        return _binary(counts, numbers)
    whole = is_number and bool((numbers.dropna() % 1 == 0).all())
    if (not is_number and len(counts) <= MAX_CLASSES) or (whole and len(counts) <= _MAX_WHOLE_CLASSES):
        return _multiclass(counts, whole)
    if not is_number:
        raise SourceError(
            f"label column '{column.name}' holds {len(counts):,} different texts",
            got=counts.index[:3].tolist(),
            allowed=f"two values, up to {MAX_CLASSES} classes, or numbers",
            next="group its rare values, or name another column",
        )
    spread = float(numbers[numbers.abs() <= LARGEST].std())
    return LabelPlan("regression", None, (), "rmse", spread, f"numbers with a spread of {spread:.3g}")


def as_text(column: pd.Series) -> pd.Series:
    """`column` in the string form that the contract compares; missing cells become <NA>."""
    return column.astype("string")


def _binary(counts: pd.Series, numbers: pd.Series) -> LabelPlan:
    if set(numbers.unique()) == {0.0, 1.0}:
        return LabelPlan("binary", None, (), "roc_auc", 1.0, f"0 and 1; {numbers.mean():.1%} are 1")
    by_word = {str(value).strip().lower(): str(value) for value in counts.index}
    named = [by_word[word] for word in _POSITIVE if word in by_word]
    positive = named[0] if named else str(counts.index[-1])
    share = counts[positive] / counts.sum()
    why = f"two values; '{positive}' counts as 1 ({share:.1%} of rows)"
    return LabelPlan("binary", positive, (), "roc_auc", 1.0, why if named else f"{why}, because it is the rarer")


def _multiclass(counts: pd.Series, whole: bool) -> LabelPlan:
    shares = counts.to_numpy(dtype=float) / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    order = sorted(counts.index, key=float) if whole else list(counts.index)
    why = f"{len(counts)} different {'whole numbers' if whole else 'texts'}"
    return LabelPlan("multiclass", None, tuple(map(str, order)), "log_loss", entropy, why)
