"""Features that give the label away: usually written after the outcome, or the outcome under another name."""

from __future__ import annotations

import numpy as np
import pandas as pd

from millrace.scaffold.labels import LabelPlan, as_text

_CORRELATION = 0.999
_RANK = 0.9995  # ROC AUC from which a number alone tells the two classes apart
_EXPLAINED = 0.999  # share of the majority guess's errors that a column alone removes
_ROWS_PER_VALUE = 20  # a column with fewer rows per value explains any label by chance


def leak(column: pd.Series, label: pd.Series, plan: LabelPlan, is_number: bool) -> str | None:
    """Why `column` gives `label` away, or None. Both are aligned; rows without a label do not count."""
    column, label = column[label.notna()], label[label.notna()]
    if is_number and plan.kind in ("binary", "regression"):
        reason = _number_leak(pd.to_numeric(column, errors="coerce").astype("float64"), target(label, plan), plan)
        if reason:
            return reason
    if plan.kind == "regression":
        return None
    classes = as_text(label)
    if not column.isna().all() and _explained(column.isna(), classes) > _EXPLAINED:
        return "is missing exactly where the label has one value"
    few_values = (column.nunique() + 1) * _ROWS_PER_VALUE <= len(column)
    if few_values and _explained(as_text(column).fillna(""), classes) > _EXPLAINED:
        return "each of its values goes with one value of the label"
    return None


def target(label: pd.Series, plan: LabelPlan) -> pd.Series:
    """The label as numbers: 0/1 for binary."""
    if plan.positive is not None:
        return (as_text(label) == plan.positive).astype("float64")
    return pd.to_numeric(label, errors="coerce").astype("float64")


def _number_leak(numbers: pd.Series, labels: pd.Series, plan: LabelPlan) -> str | None:
    both = np.isfinite(numbers) & np.isfinite(labels)
    numbers, labels = numbers[both], labels[both]
    if len(numbers) < _ROWS_PER_VALUE or numbers.nunique() < 2 or labels.nunique() < 2:
        return None
    with np.errstate(all="ignore"):  # numbers so small or large that their spread is none: no correlation, NaN
        correlation = float(np.corrcoef(numbers, labels)[0, 1])
    if abs(correlation) > _CORRELATION:
        return f"its correlation with the label is {correlation:.4f}"
    if plan.kind == "binary" and max(area := _rank_area(numbers, labels == 1), 1 - area) > _RANK:
        return "it alone tells the two label values apart"
    return None


def _rank_area(numbers: pd.Series, positive: pd.Series) -> float:
    """ROC AUC of `numbers` as a score."""
    hits = int(positive.sum())
    above = float(numbers.rank()[positive].sum()) - hits * (hits + 1) / 2
    return above / (hits * (len(numbers) - hits))


def _explained(values: pd.Series, classes: pd.Series) -> float:
    """Goodman and Kruskal's lambda: robust to a rare label, which any column seems to predict."""
    table = pd.crosstab(values.to_numpy(), classes.to_numpy())
    errors_without = len(values) - int(table.sum(axis=0).max())
    errors_with = len(values) - int(table.max(axis=1).sum())
    return 1 - errors_with / errors_without if errors_without else 0.0
