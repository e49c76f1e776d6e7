"""The feature contract: which rows may be trained on, and why the others may not."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pandas as pd

from millrace.errors import SourceError
from millrace.spec import CategoricalFeature, Data, DataSpec, NumericFeature, TableSpec
from millrace.verdict import Verdict
from millrace.window import Window

REASON = "quarantine_reason"

# A larger number becomes infinite in the model's float32.
_LARGEST = float(np.finfo(np.float32).max)
_ID_KINDS = ("string", "integer", "floating", "empty")
_NUMBER_KINDS = "biuf"
_NO_TEXT = "not valid Unicode"


@dataclass(frozen=True)
class Checked:
    """Rows split by the contract. `unlabelled` counts good rows of a table without an outcome: they are kept, not
    guessed."""

    good: pd.DataFrame
    quarantined: pd.DataFrame
    unlabelled: int

    @property
    def num_rows(self) -> int:
        return len(self.good) + len(self.quarantined)


def check(rows: pd.DataFrame, data: Data, window: Window) -> Checked:
    """Split `rows` into those that keep the contract and those that do not, with a reason each.

    Raises:
        SourceError: a column that the spec names is missing or comes twice, times are no times, or ids cannot be
            ordered: no row can be judged.
    """
    columns = required_columns(data)
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise SourceError(
            f"{data.source} gives no column {', '.join(missing)}",
            got=list(rows.columns),
            allowed=", ".join(columns),
            next="correct the source, or the names in pipeline.yaml's data section",
        )
    if repeated := [name for name in columns if (rows.columns == name).sum() > 1]:
        raise SourceError(
            f"{data.source} gives column {', '.join(repeated)} twice",
            got=list(rows.columns),
            next="correct the source: each name once",
        )
    rows = rows[columns].reset_index(drop=True)
    rows[data.row_id], broken_ids = _writable(_ids(rows[data.row_id], data))
    for name in _time_columns(data):
        rows[name] = _times(rows[name], name, data)
    reasons = pd.Series("", index=rows.index)
    _mark(reasons, rows[data.event_time].isna(), f"{data.event_time}: missing")
    _mark(
        reasons,
        (rows[data.event_time] < window.start) | (rows[data.event_time] >= window.end),
        f"{data.event_time}: outside the window",
    )
    _mark(reasons, rows[data.row_id].isna(), f"{data.row_id}: missing")
    _mark(reasons, broken_ids, f"{data.row_id}: {_NO_TEXT}")
    _mark(reasons, rows[data.row_id].duplicated(keep="first"), f"{data.row_id}: seen before")
    if isinstance(data, TableSpec):
        _check_features(rows, reasons, data)
    else:
        rows[data.text], broken = _document(rows[data.text])
        for rule, rows_broken in broken.items():
            _mark(reasons, rows_broken, f"{data.text}: {rule}")
    bad = reasons != ""
    good = rows[~bad].sort_values([data.event_time, data.row_id], kind="stable").reset_index(drop=True)
    quarantined = rows[bad].assign(**{REASON: reasons[bad]}).reset_index(drop=True)
    unlabelled = int(good[data.label.column].isna().sum()) if isinstance(data, TableSpec) else 0
    return Checked(good, quarantined, unlabelled)


def _check_features(rows: pd.DataFrame, reasons: pd.Series, data: TableSpec) -> None:
    """Bring features and label into their stored form, and mark the rows that break their rules."""
    for name, feature in data.features.items():
        rows[name], broken = (
            _numeric(rows[name], feature) if isinstance(feature, NumericFeature) else _categorical(rows[name], feature)
        )
        for rule, rows_broken in broken.items():
            _mark(reasons, rows_broken, f"{name}: {rule}")
    rows[data.label.column], broken_label = _label(rows[data.label.column], data)
    _mark(reasons, broken_label, f"{data.label.column}: no {data.label.kind} label")


def _time_columns(data: Data) -> list[str]:
    known_at = data.label.known_at if isinstance(data, TableSpec) else None
    return [data.event_time] if known_at is None else [data.event_time, known_at]


def required_columns(data: Data) -> list[str]:
    """The columns a source must give, in the order staged shards hold them."""
    if not isinstance(data, TableSpec):
        return [data.row_id, data.event_time, data.text]
    names = [data.row_id, data.event_time, *data.features, data.label.column]
    return [*names, data.label.known_at] if data.label.known_at not in (None, data.event_time) else names


def quarantine_verdict(num_rows: int, reasons: dict[str, int], data: DataSpec) -> Verdict:
    """Whether few enough rows are bad. `reasons` counts quarantined rows by reason."""
    num_bad = sum(reasons.values())
    share = num_bad / num_rows if num_rows else 0.0
    limit = data.max_quarantined_share
    if not num_rows:
        why: tuple[str, ...] = ("the source has no rows in this window",)
    else:
        top = sorted(reasons.items(), key=lambda item: -item[1])[:3]
        why = (f"{num_bad:,} of {num_rows:,} rows quarantined ({share:.2%}, at most {limit:.2%} allowed)",)
        why += tuple(f"{reason} ({count:,})" for reason, count in top)
    return Verdict(
        "contract", bool(num_rows) and share <= limit, "quarantined_share", share, limit, why, {"reasons": reasons}
    )


def _mark(reasons: pd.Series, rows: pd.Series, reason: str) -> None:
    """Give `reason` to the rows that have none yet: the first broken rule is the one reported."""
    reasons[rows.fillna(True).astype(bool) & (reasons == "")] = reason


def _ids(column: pd.Series, data: DataSpec) -> pd.Series:
    """Ids that can be compared and ordered, whatever they were packed in."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype("object")
    if (kind := pd.api.types.infer_dtype(column, skipna=True)) not in _ID_KINDS:
        why = "values of more than one type" if kind.startswith("mixed") else "no texts and no whole numbers"
        raise SourceError(
            f"{data.source}: column '{data.row_id}' holds {why}",
            got=kind,
            next="give all ids as text, or all as whole numbers",
        )
    if kind == "integer" and column.dtype == object:
        try:
            column.dropna().astype("int64")
        except OverflowError as error:
            raise SourceError(
                f"{data.source}: column '{data.row_id}' holds numbers of more than 64 bits", next="give ids as text"
            ) from error
    return column


def _times(column: pd.Series, name: str, data: DataSpec) -> pd.Series:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a slower parser, where times come as text
            return pd.to_datetime(column, utc=True).astype("datetime64[ns, UTC]")
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise SourceError(
            f"{data.source}: column '{name}' holds no times", got=str(error), next="give timestamps"
        ) from error


def _numbers(column: pd.Series) -> pd.Series:
    """The cells as float64, NaN where one is no real number: a time, a complex number, a list, a text."""
    if column.dtype == object or column.dtype.kind not in _NUMBER_KINDS:
        column = column.astype("object").map(_number, na_action="ignore")
    return pd.to_numeric(column, errors="coerce").astype("float64")


def _number(cell: object) -> float:
    if not isinstance(cell, int | float | str | Decimal | np.number | np.bool_) or isinstance(cell, np.complexfloating):
        return np.nan
    try:
        # Python's own reading of text takes more than tables mean by a number: 1_000.
        return np.nan if isinstance(cell, str) and "_" in cell else float(cell)
    except (ValueError, OverflowError):
        return np.nan


def _texts(column: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The cells as text, None where missing; and those that are no text which can be stored."""
    try:
        texts = column.astype("string")
    except (ValueError, TypeError):
        texts = column.astype("object").map(str).astype("string")
    return _writable(texts.astype("object").where(column.notna(), None))


def _writable(column: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The column with lone surrogates written out as `\\udXXX`, which no file could hold; and where there were any."""
    broken = pd.Series(False, index=column.index)
    if column.dtype != object:
        return column, broken
    try:
        "".join(cell for cell in column if isinstance(cell, str)).encode()
    except UnicodeEncodeError:
        shown = column.map(
            lambda cell: cell.encode(errors="backslashreplace").decode() if isinstance(cell, str) else cell
        )
        broken = column.notna() & (shown != column)
        column = shown
    return column, broken


def _numeric(column: pd.Series, feature: NumericFeature) -> tuple[pd.Series, dict[str, pd.Series]]:
    numbers = _numbers(column)
    broken = {"not a number": numbers.isna() & column.notna(), "not finite": numbers.abs() > _LARGEST}
    if not feature.nullable:
        broken["missing"] = column.isna()
    if feature.min is not None:
        broken[f"below {feature.min:g}"] = numbers < feature.min
    if feature.max is not None:
        broken[f"above {feature.max:g}"] = numbers > feature.max
    return numbers, broken


def _categorical(column: pd.Series, feature: CategoricalFeature) -> tuple[pd.Series, dict[str, pd.Series]]:
    values, no_text = _texts(column)
    broken = {_NO_TEXT: no_text}
    if not feature.nullable:
        broken["missing"] = column.isna()
    if not feature.open:
        broken["not an allowed category"] = column.notna() & ~values.isin(feature.values)
    return values, broken


def _document(column: pd.Series) -> tuple[pd.Series, dict[str, pd.Series]]:
    """The documents, and those that cannot be learned from."""
    is_text = column.map(lambda cell: isinstance(cell, str)).astype(bool)
    texts, no_text = _texts(column)
    broken = {"missing": column.isna(), "not text": ~is_text, _NO_TEXT: no_text, "empty": texts == ""}
    return texts, broken


def _label(column: pd.Series, data: TableSpec) -> tuple[pd.Series, pd.Series]:
    """The label column in its stored form, and the rows whose label is present and wrong."""
    label = data.label
    if label.kind == "multiclass" or label.positive is not None:
        values, wrong = _texts(column)
        return values, column.notna() & ~values.isin(label.classes) if label.kind == "multiclass" else wrong
    numbers = _numbers(column)
    wrong = (numbers.isna() & column.notna()) | (numbers.abs() > _LARGEST)
    if label.kind == "binary":
        wrong |= numbers.notna() & ~numbers.isin([0.0, 1.0])
    return numbers, wrong


def known_at(rows: pd.DataFrame, data: TableSpec) -> pd.Series:
    """When each row's outcome became known: NaT while it is not."""
    moments = rows[data.label.known_at or data.event_time]
    return moments.where(rows[data.label.column].notna())
