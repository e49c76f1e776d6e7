"""From a table to all that pipeline.yaml says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pandas as pd

from millrace.errors import SourceError
from millrace.scaffold.columns import Column, infer_column, is_number
from millrace.scaffold.labels import LabelPlan, infer_label
from millrace.scaffold.leaks import leak
from millrace.scaffold.plan import Plan, make_plan
from millrace.spec.data import LOG_COLUMNS
from millrace.table_source import KNOWN_AT, TableSource

LEAST_ROWS = 30
_FEW_WINDOWS = 4
_RARE_CLASS = 20


@dataclass(frozen=True)
class Inferred:
    """What was found in a table, for pipeline.yaml and for a summary on the screen."""

    num_rows: int
    num_labelled: int
    first: datetime
    last: datetime
    label: LabelPlan
    columns: tuple[Column, ...]
    plan: Plan
    notes: tuple[str, ...]

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that the model sees."""
        return tuple(column for column in self.columns if column.is_feature)

    @property
    def left_out(self) -> tuple[Column, ...]:
        """The columns that it does not see, with a reason in their notes."""
        return tuple(column for column in self.columns if not column.is_feature)


def infer(source: TableSource) -> Inferred:
    """The contract and the plan for the table of `source`.

    Raises:
        SourceError: the table cannot be read, or nothing can be learnt from it.
    """
    table = source.table
    dated = table[table[source.time].notna()]
    labels = dated[source.label]
    num_labelled = int(labels.notna().sum())
    # An empty label is a clearer message than too few labelled rows.
    label = infer_label(labels) if num_labelled == 0 or num_labelled >= LEAST_ROWS else _too_few(source, num_labelled)
    taken = {source.time, source.label, source.row_id, KNOWN_AT, source.known_at_column}
    columns = tuple(_column(dated[name], labels, label) for name in dated.columns if name not in taken)
    if not any(column.is_feature for column in columns):
        raise SourceError(
            "no column of the table can be a feature",
            got={column.name: column.note for column in columns},
            next="give a table with numbers or categories that are known before the outcome",
        )
    first, last = dated[source.time].min(), dated[source.time].max()
    delay = max(source.known_after, _between(dated[source.time][labels.notna()].max(), last))
    day = timedelta(days=1)
    plan = make_plan(len(dated), num_labelled / len(dated), _between(first, last) / day, delay / day)
    found = Inferred(len(table), num_labelled, first, last, label, columns, plan, ())
    return replace(found, notes=_notes(found, table, source))


def _between(first: pd.Timestamp, last: datetime) -> timedelta:
    """As datetimes count it: pandas' own difference ends at 292 years."""
    return pd.Timestamp(last).to_pydatetime(warn=False) - first.to_pydatetime(warn=False)


def _too_few(source: TableSource, num_labelled: int) -> LabelPlan:
    raise SourceError(
        f"too few rows with both a time ('{source.time}') and a label ('{source.label}')",
        got=num_labelled,
        allowed=f"at least {LEAST_ROWS}; a useful model needs hundreds",
        next="give a longer table",
    )


def _column(cells: pd.Series, labels: pd.Series, label: LabelPlan) -> Column:
    column = infer_column(cells)
    if not column.is_feature:
        return column
    if column.name in LOG_COLUMNS:
        taken = "has the name of a column of the inference log; rename it in prepare() of source.py to use it"
        return Column(column.name, "left out", taken)
    why = leak(cells, labels, label, is_number(cells.dropna()))
    return Column(column.name, "left out", why, is_leak=True) if why else column


def _notes(found: Inferred, table: pd.DataFrame, source: TableSource) -> tuple[str, ...]:
    """What a person should look at before trusting the file."""
    notes = [
        f"LEAK? column '{column.name}' is left out: {column.note}. Is it known when a prediction is asked?"
        for column in found.left_out
        if column.is_leak
    ]
    undated = int(table[source.time].isna().sum())
    if undated:
        notes.append(f"{undated:,} rows have no readable time in '{source.time}': they will be quarantined")
    repeats = int(table[source.row_id].dropna().duplicated().sum())
    if repeats:
        notes.append(f"'{source.row_id}' repeats in {repeats:,} rows: repeats within a shard will be quarantined")
    unlabelled = len(table) - undated - found.num_labelled
    if unlabelled:
        notes.append(f"{unlabelled:,} rows have no label: they are kept and not trained on")
    waiting = _between(table[source.time][table[source.label].notna()].max(), found.last) / timedelta(days=1)
    if waiting > max(1.0, source.known_after / timedelta(days=1)) and not source.known_at_column:
        notes.append(f"the newest {waiting:.0f} days have no labels: if outcomes come late, pass --known-after-days")
    plan = found.plan
    if plan.windows < _FEW_WINDOWS:
        notes.append(f"the table spans {plan.windows} {plan.period}(s): drift checks need a history of several windows")
    if plan.rows_per_window < plan.monitoring_rows:
        notes.append(f"about {plan.rows_per_window} rows a {plan.period}: too few for any check to judge")
    elif plan.rows_per_window < 100:
        notes.append(f"about {plan.rows_per_window} rows a {plan.period}: verdicts on so few rows are uncertain")
    return (*notes, *_label_notes(found, table[source.label].dropna()))


def _label_notes(found: Inferred, labels: pd.Series) -> list[str]:
    counts = labels.astype("string").value_counts()
    if found.label.kind == "regression":
        return []
    notes = (
        []
        if found.label.kind == "binary" or not is_number(labels)
        else [
            "the label is a few whole numbers, taken as classes; if they count or rank, make data.label.kind regression"
        ]
    )
    rare = [str(value) for value, count in counts.items() if count < _RARE_CLASS]
    if rare:
        notes.append(f"fewer than {_RARE_CLASS} rows have the label {', '.join(rare[:5])}")
    if found.label.positive is not None:
        notes.append(f"label '{found.label.positive}' counts as 1; if it is the other one, change data.label.positive")
    return notes
