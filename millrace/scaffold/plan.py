"""Windows, gates and sizes in proportion to the table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from millrace.window import Period

PERIOD_DAYS: dict[Period, float] = {"day": 1.0, "week": 7.0, "month": 30.44}
_WISHED_WINDOWS = 15  # the middle, on a log scale, of 8 to 30: enough to see a trend, few enough to hold rows
_ENOUGH_ROWS = 200
_LEAST_ROWS = 20


@dataclass(frozen=True)
class Plan:
    """Numbers for pipeline.yaml, each with its unit in the name or in the template's comment."""

    period: Period
    windows: int
    rows_per_window: int
    evaluation_days: float
    evaluation_rows: int
    validation_days: float
    monitoring_rows: int
    cool_down_days: int
    budget_days: int
    batch_size: int
    epochs: int
    patience: int
    hidden: int
    blocks: int
    dropout: float


def make_plan(num_rows: int, labelled_share: float, days: float, delay_days: float = 0.0) -> Plan:
    """A plan for `num_rows` over `days`, of which `labelled_share` have an outcome; it comes after `delay_days`."""
    days = max(days, 1 / 24)
    period = choose_period(num_rows, days)
    period_days = PERIOD_DAYS[period]
    rows_per_day = num_rows / days
    per_window = min(num_rows, round(rows_per_day * period_days))
    evaluation = _span(max(period_days, 1000 / rows_per_day), 0.2 * days)
    validation = _span(max(period_days / 2, 500 / rows_per_day), 0.1 * days)
    batch = 2 ** round(math.log2(min(2048.0, max(32.0, num_rows / 100))))
    epochs = round(min(60, max(8, 3000 * batch / num_rows)))
    size = 0 if num_rows < 5_000 else 1 if num_rows < 100_000 else 2
    return Plan(
        period=period,
        windows=max(1, round(days / period_days)),
        rows_per_window=per_window,
        # The newest events have no outcome yet: only the days before the delay can judge.
        evaluation_days=round(evaluation + delay_days, 2),
        evaluation_rows=_half(rows_per_day * evaluation * labelled_share),
        validation_days=validation,
        monitoring_rows=_half(per_window * labelled_share),
        cool_down_days=max(1, round(2 * period_days)),
        budget_days={"day": 30, "week": 180, "month": 365}[period],
        batch_size=batch,
        epochs=epochs,
        patience=max(2, epochs // 6),
        hidden=(64, 128, 256)[size],
        blocks=(1, 2, 3)[size],
        dropout=(0.2, 0.1, 0.1)[size],
    )


def choose_period(num_rows: int, days: float) -> Period:
    """The calendar period that cuts the table into 8 to 30 windows, as near as it gets, with enough rows in each."""

    def unfitness(period: Period) -> float:
        windows = max(days / PERIOD_DAYS[period], 0.5)
        rows = max(num_rows / max(windows, 1), 1)
        return abs(math.log(windows / _WISHED_WINDOWS)) + max(0.0, math.log(_ENOUGH_ROWS / rows))

    return min(PERIOD_DAYS, key=unfitness)


def _span(wished_days: float, most_days: float) -> float:
    days = min(wished_days, most_days)
    return float(round(days)) if days >= 2 else max(0.01, round(days, 2))


def _half(rows: float) -> int:
    """Half of what is usual, so that a thin window is still judged and a nearly empty one is not."""
    return int(min(500, max(_LEAST_ROWS, round(rows / 2, -1))))
