"""The inference log: what was asked and answered, and the outcomes that came later.

Below a pipeline's folder (`inference_folder`) lie `answers`, `outcomes`, `failures` and `shadow` (what a version would
have answered that answers nobody), each a log of `millrace.segments`. A record is one request, column by column; a
table has one line per row of a request. Of a request that failed (5xx) only that it did is kept, and nothing of what
was asked. Each segment's header names its features and their types, so a segment is readable whatever the spec says by
then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.log_tables import ANSWERS, FAILURES, OUTCOMES, SHADOW, read, schema_of, to_table
from millrace.log_writer import LogWriter
from millrace.requests import ParsedOutcomes, ParsedRequest
from millrace.segments import compact as _compact
from millrace.settings import Settings
from millrace.spec import NumericFeature, TableSpec
from millrace.window import Window

if TYPE_CHECKING:
    import pandas as pd

#: What a segment of failures holds.
FAILURES_HEADER = {"kind": FAILURES}


def inference_folder(settings: Settings, pipeline_name: str) -> Path:
    """Folder of the pipeline's inference log."""
    return settings.state / "inference" / pipeline_name


def answers_header(data: TableSpec) -> dict[str, Any]:
    """What a segment of answers holds."""
    classes = data.label.classes
    types = {name: "number" if isinstance(f, NumericFeature) else "string" for name, f in data.features.items()}
    return {"kind": ANSWERS, "features": types, "prediction": "string" if classes else "number", "classes": classes}


def outcomes_header(data: TableSpec) -> dict[str, Any]:
    """What a segment of outcomes holds."""
    is_name = data.label.kind == "multiclass" or data.label.positive is not None
    return {"kind": OUTCOMES, "label": "string" if is_name else "number"}


def shadow_header(data: TableSpec) -> dict[str, Any]:
    """What a segment of a shadow's answers holds."""
    return {"kind": SHADOW, "prediction": "string" if data.label.classes else "number"}


def answers_writer(folder: Path, data: TableSpec, rotate_seconds: float) -> LogWriter:
    """A writer of answers below the pipeline's `folder`."""
    return LogWriter(folder / ANSWERS, answers_header(data), to_table, rotate_seconds)


def outcomes_writer(folder: Path, data: TableSpec, rotate_seconds: float) -> LogWriter:
    """A writer of outcomes below the pipeline's `folder`."""
    return LogWriter(folder / OUTCOMES, outcomes_header(data), to_table, rotate_seconds)


def failures_writer(folder: Path, rotate_seconds: float) -> LogWriter:
    """A writer of failures below the pipeline's `folder`."""
    return LogWriter(folder / FAILURES, FAILURES_HEADER, to_table, rotate_seconds)


def shadow_writer(folder: Path, data: TableSpec, rotate_seconds: float) -> LogWriter:
    """A writer of a shadow's answers below the pipeline's `folder`."""
    return LogWriter(folder / SHADOW, shadow_header(data), to_table, rotate_seconds)


def answer_record(
    request: ParsedRequest,
    *,
    request_id: str,
    version: str,
    customer: str = "",
    answered_at: datetime,
    seconds: float,
    prediction: Sequence[float] | Sequence[str],
    probabilities: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """One answered request; `customer` is empty where nobody needs a key.

    `probabilities` maps each class to a column, for multiclass labels.
    """
    return {
        "request_id": request_id,
        "version": version,
        "customer": customer,
        "answered_at": round(answered_at.timestamp() * 1_000_000),
        "seconds": seconds,
        "row_id": request.row_ids,
        "event_time": request.event_times,
        "features": request.columns,
        "prediction": prediction,
        "probabilities": probabilities or {},
    }


def outcome_record(outcomes: ParsedOutcomes) -> dict[str, Any]:
    """One report of outcomes."""
    return {
        "request_id": outcomes.request_ids,
        "row": outcomes.rows,
        "label": outcomes.labels,
        "known_at": outcomes.known_at,
    }


def failure_record(request_id: str, version: str, failed_at: datetime, status: int, error: Exception) -> dict[str, Any]:
    """One request that `version` did not answer; of the error its class only, as its text may hold what was asked."""
    return {
        "request_id": request_id,
        "version": version,
        "failed_at": round(failed_at.timestamp() * 1_000_000),
        "status": status,
        "error": type(error).__name__,
    }


def shadow_record(
    answered: Mapping[str, Any], version: str, answers: Sequence[float | str | None], *, error: str = "", dropped: int
) -> dict[str, Any]:
    """What `version` would have answered to a request of the log of answers (`answer_record`).

    Where it gave no answer, `answers` are None and `error` says why. `dropped` requests were left out since the last
    record.
    """
    return {
        "request_id": answered["request_id"],
        "version": version,
        "primary": answered["version"],
        "answered_at": answered["answered_at"],
        "prediction": answered["prediction"],
        "shadow": answers,
        "error": error,
        "dropped": dropped,
    }


def compact(folder: Path) -> list[Path]:
    """Close the segments that killed writers left open below the pipeline's `folder`; the new files.

    Raises:
        DataError: a segment is damaged; the others are closed all the same.
    """
    return [path for part in (ANSWERS, OUTCOMES, FAILURES, SHADOW) for path in _compact(folder / part, to_table)]


def read_answers(folder: Path, data: TableSpec, window: Window | None = None) -> pd.DataFrame:
    """The answered rows below the pipeline's `folder`, oldest answer first.

    With a `window`, those whose event lies in it; files outside it are skipped by their statistics. A row that was
    asked twice under one request id is there once, with its newest answer.

    Raises:
        DataError: a segment is damaged.
    """
    found = read(folder / ANSWERS, schema_of(answers_header(data)), window).sort_values(
        "answered_at", kind="stable", ignore_index=True
    )
    return _newest(found)


def read_outcomes(folder: Path, data: TableSpec) -> pd.DataFrame:
    """The outcomes below the pipeline's `folder`: request_id, row, label, known_at; the newest for each row.

    Raises:
        DataError: a segment is damaged.
    """
    found = read(folder / OUTCOMES, schema_of(outcomes_header(data)), None).sort_values(
        "known_at", kind="stable", ignore_index=True
    )
    return _newest(found)


def read_failures(folder: Path) -> pd.DataFrame:
    """The failed requests below the pipeline's `folder`: request_id, version, failed_at, status, error; oldest first.

    Raises:
        DataError: a segment is damaged.
    """
    found = read(folder / FAILURES, schema_of(FAILURES_HEADER), None)
    return found.sort_values("failed_at", kind="stable", ignore_index=True)


def read_shadow(folder: Path, data: TableSpec) -> pd.DataFrame:
    """What shadows would have answered, below the pipeline's `folder`, by row: request_id, row, version, primary,
    answered_at, prediction (the primary's), shadow, error, dropped; oldest first.

    Raises:
        DataError: a segment is damaged.
    """
    found = read(folder / SHADOW, schema_of(shadow_header(data)), None).sort_values(
        "answered_at", kind="stable", ignore_index=True
    )
    # A version is asked once for each row, by however many shadows there were.
    return found.loc[~found.duplicated(["version", "request_id", "row"], keep="last")].reset_index(drop=True)


def read_joined(folder: Path, data: TableSpec, window: Window | None = None) -> pd.DataFrame:
    """The answered rows with `label` and `known_at`, empty where no outcome has arrived.

    Raises:
        DataError: a segment is damaged.
    """
    answers, outcomes = read_answers(folder, data, window), read_outcomes(folder, data)
    return answers.merge(outcomes, on=["request_id", "row"], how="left", validate="one_to_one")


def _newest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.loc[~rows.duplicated(["request_id", "row"], keep="last")].reset_index(drop=True)
