"""The adapter to Evidently: drift of a window against a reference, as numbers and as an HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from millrace.faults import fault_point
from millrace.package import PREDICTION
from millrace.spec import PipelineSpec


@dataclass(frozen=True, slots=True)
class Drift:
    """Distances by column (normed Wasserstein for numbers, Jensen-Shannon for categories), and who drifted."""

    features: Mapping[str, tuple[float, bool]]
    prediction: tuple[float, bool]

    @property
    def share(self) -> float:
        """Share of features that drifted."""
        return sum(drifted for _, drifted in self.features.values()) / len(self.features) if self.features else 0.0


def measure_drift(current: pd.DataFrame, reference: pd.DataFrame, spec: PipelineSpec, report_path: Path) -> Drift:
    """Compare feature and prediction distributions; the full report is written to `report_path`.

    Columns that are empty on either side have no distribution: they are left out of the report and drift by 1 when
    only one side is empty.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    limits = spec.monitoring.drift
    columns = [*spec.table.features, PREDICTION]
    empty = {name: (current[name].notna().any(), reference[name].notna().any()) for name in columns}
    measured = [name for name in columns if all(empty[name])]
    numeric_prediction = spec.table.label.kind != "multiclass"
    numeric = [name for name in measured if name in spec.table.numeric or (name == PREDICTION and numeric_prediction)]
    categorical = [name for name in measured if name not in numeric]
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    metrics = [
        ValueDrift(
            column=name,
            method="wasserstein" if name in numeric else "jensenshannon",
            threshold=limits.prediction_threshold if name == PREDICTION else limits.feature_threshold,
        )
        for name in measured
    ]
    snapshot = Report(metrics).run(
        Dataset.from_pandas(_prepared(current, numeric, categorical, limits.sample_rows), data_definition=definition),
        Dataset.from_pandas(_prepared(reference, numeric, categorical, limits.sample_rows), data_definition=definition),
    )
    report_path.parent.mkdir(parents=True, exist_ok=True)
    partial = report_path.with_suffix(".partial")
    with fault_point("report.write"):
        snapshot.save_html(str(partial))
        partial.replace(report_path)
    found = {item["config"]["column"]: _score(item) for item in snapshot.dict()["metrics"]}
    for name, sides in empty.items():
        if not all(sides):
            found[name] = (1.0, True) if any(sides) else (0.0, False)
    return Drift({name: found[name] for name in spec.table.features}, found[PREDICTION])


def _prepared(rows: pd.DataFrame, numeric: list[str], categorical: list[str], limit: int) -> pd.DataFrame:
    sample = rows.sample(limit, random_state=0) if len(rows) > limit else rows
    return pd.concat(
        [
            sample[numeric].astype("float64"),
            sample[categorical].astype("object").where(sample[categorical].notna(), None),
        ],
        axis=1,
    )


def _score(item: Mapping[str, Any]) -> tuple[float, bool]:
    score = float(item["value"])
    return score, score >= float(item["config"]["threshold"])
