"""What each column of a table may hold, or why it is left out."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from millrace.errors import shorten
from millrace.scaffold.labels import LARGEST, as_text

MAX_VALUES = 200
_MOSTLY = 0.95
_NEW_VALUES = 0.001  # share of rows with a value never met before, from which the list cannot be closed
_FREE_TEXT_CHARS = 60
_SMALLEST = float(np.finfo(np.float32).tiny)  # what is below is zero for it
_ID_NAME = re.compile(r"(^|_)(id|key|uuid|guid|no|nr|number|index|unnamed_\d+)$", re.IGNORECASE)
_DATE_TEXT = re.compile(r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T\s].*)?$")
_LEADING_ZERO = re.compile(r"\s*[+-]?0\d")


@dataclass(frozen=True)
class Column:
    """One column of the table. `kind` is numeric, categorical or left out; `note` is for people, in one line."""

    name: str
    kind: str
    note: str
    minimum: float = 0.0
    maximum: float = 0.0
    values: tuple[str, ...] = ()
    open: bool = False
    nullable: bool = False
    is_leak: bool = False

    @property
    def is_feature(self) -> bool:
        return self.kind != "left out"


def infer_column(cells: pd.Series) -> Column:
    """What `cells`, sorted by the time of their events, may hold."""
    name, known = str(cells.name), cells.dropna()
    if known.empty:
        return Column(name, "left out", "it is empty")
    if not isinstance(known.iloc[0], str) and known.dtype == object:
        return Column(name, "left out", "its cells are no single values")
    if is_date(known):
        return Column(name, "left out", "a date: derive a number from it in source.py, such as days until the event")
    if known.nunique() == 1 and len(known) == len(cells):
        return Column(name, "left out", f"it is {shorten(repr(str(known.iloc[0])), 60)} in every row")
    missing = 1 - len(known) / len(cells)
    return _number(name, known, missing) if is_number(known) else _category(name, as_text(known), missing)


def is_number(known: pd.Series) -> bool:
    """Whether a column is one of numbers, a few slips allowed; codes with a leading zero are none."""
    if pd.api.types.is_numeric_dtype(known):
        return True
    share = pd.to_numeric(known, errors="coerce").notna().mean()
    return bool(share >= _MOSTLY) and not as_text(known).str.match(_LEADING_ZERO).any()


def is_date(known: pd.Series) -> bool:
    """Whether a column holds dates, as such or as text."""
    if pd.api.types.is_datetime64_any_dtype(known) or pd.api.types.is_timedelta64_dtype(known):
        return True
    if known.dtype != object:
        return False
    return bool(as_text(known.head(1000)).str.match(_DATE_TEXT).mean() >= _MOSTLY)


def _number(name: str, known: pd.Series, missing: float) -> Column:
    numbers = pd.to_numeric(known, errors="coerce").astype("float64")
    finite = numbers[numbers.abs() <= LARGEST]
    if finite.empty:
        return Column(name, "left out", "none of its numbers is finite")
    if _names_rows(name, finite, len(known)):
        return Column(name, "left out", "it numbers the rows: an id tells a model nothing about the next row")
    low, high = float(finite.min()), float(finite.max())
    lower, upper = bounds(low, high)
    slips = len(known) - len(finite)
    note = f"seen {low:.6g} to {high:.6g}" + _missing_note(missing)
    note += f"; {slips:,} cells are no numbers and will be quarantined" if slips else ""
    return Column(name, "numeric", note, lower, upper, nullable=missing > 0)


def bounds(low: float, high: float) -> tuple[float, float]:
    """Limits a whole range beyond what was seen, in round numbers; what was never negative stays so."""
    span = max((high - low) or abs(high) or 1.0, _SMALLEST)
    step = 10.0 ** (math.floor(math.log10(span)) - 1)
    lower = 0.0 if low >= 0 else min(low, round(math.floor((low - span) / step) * step, 12))
    return lower, max(high, round(math.ceil((high + span) / step) * step, 12))


def _names_rows(name: str, numbers: pd.Series, num_known: int) -> bool:
    whole = bool((numbers % 1 == 0).all())
    if not whole or numbers.nunique() < num_known or num_known < 20:
        return False
    dense = float(numbers.max() - numbers.min()) < 2 * num_known
    return bool(_ID_NAME.search(name)) or dense or bool(numbers.is_monotonic_increasing)


def _category(name: str, texts: pd.Series, missing: float) -> Column:
    counts = texts.value_counts()
    if len(counts) > 20 and len(counts) > len(texts) / 2:
        return Column(name, "left out", f"{len(counts):,} different values in {len(texts):,} rows: an id or free text")
    if len(counts) > MAX_VALUES and float(texts.str.len().mean()) > _FREE_TEXT_CHARS:
        return Column(name, "left out", "free text: derive categories or numbers from it in source.py")
    # By frequency, then by name, so that the same table gives the same file.
    ranked = sorted(counts.items(), key=lambda item: (-int(item[1]), str(item[0])))
    values = tuple(str(value) for value, _ in ranked[:MAX_VALUES])
    is_open = len(counts) > MAX_VALUES or _keeps_growing(texts, counts)
    note = f"{len(counts):,} values" + _missing_note(missing)
    note += '; callers send the text "true" or "false"' if set(values) <= {"true", "false"} else ""
    note += f"; the {MAX_VALUES} most frequent are listed" if len(counts) > MAX_VALUES else ""
    note += "; new values keep coming, so others are accepted as unknown" if is_open else ""
    return Column(name, "categorical", note, values=values, open=is_open, nullable=missing > 0)


def _keeps_growing(texts: pd.Series, counts: pd.Series) -> bool:
    """Whether the next rows will bring new values: judged by values seen once (Good-Turing) and by the newest fifth."""
    cut = int(len(texts) * 0.8)
    newest = texts.iloc[cut:]
    unseen = float((~newest.isin(texts.iloc[:cut].unique())).mean()) if len(newest) else 0.0
    once = int((counts == 1).sum()) / len(texts)
    return max(unseen, once) > _NEW_VALUES


def _missing_note(missing: float) -> str:
    return f"; missing in {max(missing, 0.0001):.2%} of rows" if missing > 0 else ""
