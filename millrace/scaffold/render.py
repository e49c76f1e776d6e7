"""pipeline.yaml as text with comments. Whatever comes from the table is quoted, so that it reads back unchanged."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

import yaml

from millrace.scaffold.columns import Column
from millrace.scaffold.infer import Inferred
from millrace.table_source import KNOWN_AT, ROW_ID, TableSource

TEMPLATES = files("millrace.scaffold") / "templates"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WIDTH = 110
_METRIC_COMMENTS = {
    "roc_auc": "0.5 is guessing, 1 is perfect; or log_loss, accuracy",
    "log_loss": "less is better; or accuracy",
    "rmse": "in the label's unit, less is better; or mae",
}


def render(name: str, source: TableSource, options: Mapping[str, object], found: Inferred, quarantined: float) -> str:
    """The text of pipeline.yaml; `quarantined` is the share of today's rows that break the inferred contract."""
    plan, label = found.plan, found.label
    share, share_comment = _quarantine(quarantined)
    values = {
        **{field: str(getattr(plan, field)) for field in plan.__dataclass_fields__},
        "name": name,
        "description": quoted(f"Predicts {source.label} ({label.kind})"),
        "label_comment": quoted(source.label)[1:-1],
        "label_why": label.why if label.why.isprintable() else quoted(label.why)[1:-1],
        "num_rows": f"{found.num_rows:,}",
        "first": f"{found.first:%Y-%m-%d}",
        "last": f"{found.last:%Y-%m-%d}",
        "source_options": _mapping(options, 4),
        "time": scalar(source.time),
        "row_id": scalar(source.row_id),
        "row_id_comment": _row_id_comment(source),
        "quarantine": number(share),
        "quarantine_comment": share_comment,
        "label": _label(source, found),
        "features": "\n".join(_feature(column) for column in found.features),
        "left_out": _left_out(found),
        "metric": label.metric,
        "metric_comment": _METRIC_COMMENTS[label.metric],
        "max_drop": number(_max_drop(found)),
        "slices": _flow(_slices(found)),
    }
    return Template((TEMPLATES / "pipeline.yaml.template").read_text(encoding="utf-8")).substitute(values)


def quoted(text: str) -> str:
    """`text` as a double-quoted YAML scalar in one line."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")


def scalar(text: str) -> str:
    """`text` plain where YAML reads it as the same text, else quoted."""
    return text if _PLAIN.fullmatch(text) and yaml.safe_load(text) == text else quoted(text)


def number(value: float) -> str:
    """`value` as YAML reads a number: PyYAML takes 1e+20 for text unless it has a point."""
    text = f"{value:.12g}"
    if float(text) != value:
        text = repr(value)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def _mapping(values: Mapping[str, object], indent: int) -> str:
    lines = [
        f"{key}: {number(value) if isinstance(value, int | float) else quoted(str(value))}"
        for key, value in values.items()
        if value is not None
    ]
    return textwrap.indent("\n".join(lines), " " * indent)


def _label(source: TableSource, found: Inferred) -> str:
    label = found.label
    lines = [f"column: {scalar(source.label)}", f"kind: {label.kind}  # binary, multiclass or regression"]
    if label.positive is not None:
        lines.append(f"positive: {quoted(label.positive)}  # the value that counts as 1")
    if label.classes:
        lines.append(f"classes: {_flow(label.classes, 16)}")
    lines.append(f"known_at: {KNOWN_AT}  # computed in source.py: when the outcome became known")
    days = source.known_after.total_seconds() / 86_400
    lines.append(f"delay_days: {number(days)}  # after so many days an outcome that has not come never will")
    return textwrap.indent("\n".join(lines), "    ")


def _feature(column: Column) -> str:
    nullable = ", nullable: true" if column.nullable else ""
    if column.kind == "numeric":
        limits = f"min: {number(column.minimum)}, max: {number(column.maximum)}"
        return f"    {scalar(column.name)}: {{kind: numeric, {limits}{nullable}}}  # {column.note}"
    more = (", open: true" if column.open else "") + nullable
    line = f"    {scalar(column.name)}: {{kind: categorical, values: {_flow(column.values)}{more}}}"
    if len(line) <= _WIDTH:
        return f"{line}  # {column.note}"
    fields = ["kind: categorical", *more.removeprefix(", ").split(", ")]
    fields = [*filter(None, fields), f"values: {_flow(column.values, 8)}"]
    return f"    {scalar(column.name)}:  # {column.note}\n" + textwrap.indent("\n".join(fields), " " * 6)


def _flow(values: Sequence[str], indent: int = 0) -> str:
    """A list of quoted texts; lines are broken between texts only, as a break within one would change it."""
    lines = [""]
    for item in map(quoted, values):
        if lines[-1] and indent + len(lines[-1]) + len(item) > _WIDTH:
            lines.append("")
        lines[-1] += ("" if not lines[-1] else " ") + item + ","
    return "[" + "\n   ".join(lines).removesuffix(",") + "]"


def _left_out(found: Inferred) -> str:
    if not found.left_out:
        return ""
    lines = ["", "  # Left out:"]
    for column in found.left_out:
        loud = "LEAK? " if column.is_leak else ""
        note = column.note if column.note.isprintable() else quoted(column.note)
        lines.append(f"  #   {scalar(column.name)}: {loud}{note}")
    if any(column.is_leak for column in found.left_out):
        lines.append("  # LEAK? marks columns that give the label away. Add one to the features only when you are sure")
        lines.append("  # that its value is known, and the same, at the moment a prediction is asked.")
    return "\n".join(lines) + "\n"


def _row_id_comment(source: TableSource) -> str:
    if source.row_id == ROW_ID:
        return "made from the row's other cells; name a column in source_options.id if the table has one"
    return "names a row, unique in the table"


def _quarantine(share: float) -> tuple[float, str]:
    if share <= 0.005:
        return 0.01, ""
    allowed = min(1.0, math.ceil(share * 150) / 100)
    return allowed, f"; {share:.2%} do today: look at them, then lower this"


def _max_drop(found: Inferred) -> float:
    wished = {"roc_auc": 0.03, "log_loss": 0.1 * found.label.scale, "rmse": 0.1 * found.label.scale}[found.label.metric]
    return float(f"{wished:.2g}")


def _slices(found: Inferred) -> tuple[str, ...]:
    few = [column.name for column in found.features if column.kind == "categorical" and 2 <= len(column.values) <= 10]
    return tuple(few[:2])
