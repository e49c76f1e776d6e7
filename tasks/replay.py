"""Drive a window of a pipeline's past through its live endpoint, in the order in which it happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd

from millrace.contract import check, known_at
from millrace.errors import ConfigError, ConflictError, DataError, ServiceError
from millrace.faults import fault_point
from millrace.inference_log import inference_folder, read_answers
from millrace.pipeline import Pipeline
from millrace.spec import TableSpec
from millrace.window import Window
from ray_jobs.stage.shards import read_source
from tasks.run import Run, step

REPLAYED = "replayed"

_OUTCOMES_PER_REQUEST = 1000
_TIMEOUT_SECONDS = 30.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was sent and how it was answered; `failed` requests are those not answered with 200."""

    window: Window
    num_requests: int
    num_rows: int
    num_outcomes: int
    failed: int
    median_ms: float
    p99_ms: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"window": self.window.as_dict()}


@step
def replay_window(run: Run, window: Window, rows_per_request: int, progress: Progress | None = None) -> dict[str, Any]:
    """Ask for a prediction for every row of `window`, and send each outcome once it was known; `Replayed` as a dict.

    Request ids name the rows they ask for: a window that is replayed again after a kill answers the same requests, and
    the log counts them once.

    Raises:
        ConfigError: fewer than one row a request is asked for.
        ServiceError: the endpoint cannot be reached.
        ConflictError: it serves no version.
    """
    if rows_per_request < 1:
        raise ConfigError("rows_per_request must be at least 1", got=rows_per_request, next="ask with 64")
    if (recorded := run.recorded(REPLAYED)) is not None:
        return dict(recorded)
    data = run.pipeline.spec.table
    late = timedelta(days=data.label.delay_days)
    rows = check(read_source(run.pipeline, window, window.end), data, window).good
    known = known_at(rows, data)
    base = f"{run.settings.serve_url}/v1/{run.pipeline.name}"
    pending = _asked_before(run, window, late)
    times: list[float] = []
    failed = num_outcomes = 0
    with httpx.Client(timeout=_TIMEOUT_SECONDS, headers=run.settings.serve_headers) as client:
        for batch, (request_id, body, outcomes) in enumerate(
            _requests(run.pipeline.name, rows, known, data, rows_per_request)
        ):
            moment = rows[data.event_time].iloc[batch * rows_per_request]
            num_outcomes += _send_outcomes(client, base, pending, until=moment)
            answer = _post(client, f"{base}/predict", body, {"x-request-id": request_id})
            times.append(answer.elapsed.total_seconds() * 1000)
            failed += answer.status_code != httpx.codes.OK
            pending.extend(outcomes)
            if progress is not None:
                progress(min((batch + 1) * rows_per_request, len(rows)), len(rows))
        num_outcomes += _send_outcomes(client, base, pending, until=pd.Timestamp(window.end), rest=True)
    median, p99 = np.percentile(times, [50, 99]) if times else (float("nan"), float("nan"))
    done = Replayed(window, len(times), len(rows), num_outcomes, failed, float(median), float(p99))
    run.record(REPLAYED, done.as_dict())
    return done.as_dict()


def _requests(
    pipeline: str, rows: pd.DataFrame, known: pd.Series, data: TableSpec, size: int
) -> Iterator[tuple[str, bytes, list[dict[str, Any]]]]:
    """Request id, body and the outcomes it will have, in event-time order."""
    columns = [data.row_id, data.event_time, *data.features]
    sent = rows[columns].astype("object").where(rows[columns].notna(), None)
    sent[data.event_time] = rows[data.event_time].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    records = sent.to_dict("records")
    outcomes = list(zip(rows[data.label.column], known, strict=True))
    for start in range(0, len(records), size):
        request_id = f"replay-{pipeline}-{records[start][data.event_time]}-{start}".replace(":", "").replace(".", "")
        body = orjson.dumps({"rows": records[start : start + size]}, option=orjson.OPT_SERIALIZE_NUMPY)
        yield (
            request_id,
            body,
            [
                {"request_id": request_id, "row": offset, "label": label, "known_at": moment}
                for offset, (label, moment) in enumerate(outcomes[start : start + size])
                if not pd.isna(moment)
            ],
        )


def _asked_before(run: Run, window: Window, late: timedelta) -> list[dict[str, Any]]:
    """Outcomes that became known inside `window` of rows that were asked for before it."""
    if late <= timedelta(0):
        return []
    data = run.pipeline.spec.table
    before = Window(window.start - late, window.start)
    asked = read_answers(inference_folder(run.settings, run.pipeline.name), data, before)
    if asked.empty:
        return []
    rows = check(read_source(run.pipeline, before, window.end), data, before).good
    rows = rows.assign(_known=known_at(rows, data))
    rows = rows[rows["_known"] > pd.Timestamp(window.start)]
    joined = rows.merge(asked[["request_id", "row", "row_id"]], left_on=data.row_id, right_on="row_id")
    return [
        {"request_id": request_id, "row": int(row), "label": label, "known_at": moment}
        for request_id, row, label, moment in zip(
            joined["request_id"], joined["row"], joined[data.label.column], joined["_known"], strict=True
        )
    ]


def _send_outcomes(
    client: httpx.Client, base: str, pending: list[dict[str, Any]], *, until: pd.Timestamp, rest: bool = False
) -> int:
    """Send what was known by `until`, once enough of it has gathered or when it is the `rest`; returns how many."""
    due = [outcome for outcome in pending if outcome["known_at"] <= until]
    if not due or (len(due) < _OUTCOMES_PER_REQUEST and not rest):
        return 0
    pending[:] = [outcome for outcome in pending if outcome["known_at"] > until]
    for start in range(0, len(due), _OUTCOMES_PER_REQUEST):
        part = [
            {**outcome, "known_at": _iso(outcome["known_at"])} for outcome in due[start : start + _OUTCOMES_PER_REQUEST]
        ]
        answer = _post(
            client, f"{base}/outcomes", orjson.dumps({"outcomes": part}, option=orjson.OPT_SERIALIZE_NUMPY), {}
        )
        if answer.status_code != httpx.codes.ACCEPTED:
            raise ServiceError(
                f"{base}/outcomes refused outcomes",
                got=answer.text,
                allowed="202 Accepted",
                next="look at `millrace status`",
            )
    return len(due)


def _iso(moment: datetime) -> str:
    return moment.isoformat()


def _post(client: httpx.Client, url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    try:
        with fault_point("endpoint.post"):
            answer = client.post(url, content=body, headers={"content-type": "application/json", **headers})
    except httpx.HTTPError as error:
        raise ServiceError(f"{url} does not answer", got=str(error), next="look at `millrace status`") from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise ServiceError(
            f"{url} demands a key",
            next="make one with `millrace keys create CUSTOMER` and set MILLRACE_SERVE_KEY to it",
        )
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise ConflictError(f"{url} does not exist: no version serves", next="train one with `millrace run`")
    return answer


def example_request(pipeline: Pipeline, window: Window) -> bytes:
    """The body of a request for the first good row of `window`."""
    data = pipeline.spec.table
    for day in window.split("day"):
        rows = check(read_source(pipeline, day, day.end), data, day).good.head(1)
        if len(rows):
            _, body, _ = next(_requests(pipeline.name, rows, known_at(rows, data), data, 1))
            return body
    raise DataError(f"the source of '{pipeline.name}' has no good row in {window}", next="look at `millrace validate`")
