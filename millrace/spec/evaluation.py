"""The `evaluation` section: how a challenger is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from millrace.spec.base import MAX_DAYS, Section

Metric = Literal["roc_auc", "log_loss", "accuracy", "rmse", "mae", "bits_per_byte"]

#: Metrics that fit each kind of label, and texts; the first is the default.
METRICS: dict[str, tuple[Metric, ...]] = {
    "binary": ("roc_auc", "log_loss", "accuracy"),
    "multiclass": ("log_loss", "accuracy"),
    "regression": ("rmse", "mae"),
    "text": ("bits_per_byte",),
}

#: The only metric of texts: bits in which a model writes documents down, over their bytes.
TEXT_METRIC: Metric = "bits_per_byte"

#: Metrics of which more is better; of the others, less is.
HIGHER_IS_BETTER: frozenset[Metric] = frozenset({"roc_auc", "accuracy"})


class EvaluationSpec(Section):
    """Challenger, champion and a trivial baseline on the same newest labelled rows, and the rule of the gate."""

    metric: Metric = Field(description="What decides; the others are reported.")
    window_days: float = Field(
        default=14.0, gt=0, le=MAX_DAYS, description="Newest days kept from training to judge on."
    )
    min_rows: int = Field(default=500, ge=1, description="Labelled rows (of texts: documents) needed to promote.")
    min_improvement: float = Field(
        default=0.0, ge=0, description="How much better than the champion, in the metric's own unit."
    )
    confidence: float = Field(
        default=0.9,
        gt=0.5,
        lt=1,
        description="One-sided confidence that the challenger is better, from a paired bootstrap.",
    )
    bootstrap_samples: int = Field(default=300, ge=50, le=10_000, description="Resamples of the paired interval.")
    slices: list[str] = Field(default_factory=list, description="Categorical features to report the metric by.")
