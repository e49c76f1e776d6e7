"""The `monitoring` section: what is checked, and the brakes on what a bad check may start."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from millrace.spec.base import MAX_DAYS, Section
from millrace.window import Period


class DriftSpec(Section):
    """Newest window against the reference the serving model was trained on, measured by Evidently."""

    max_drifted_share: float = Field(
        default=0.5, gt=0, le=1, description="Share of features that may drift before the check fails."
    )
    feature_threshold: float = Field(
        default=0.1, gt=0, description="Distance from which a feature counts as drifted (Wasserstein / Jensen-Shannon)."
    )
    prediction_threshold: float = Field(
        default=0.1, gt=0, description="Distance from which the predictions count as drifted."
    )
    sample_rows: int = Field(default=5000, ge=100, description="Rows compared at the most, drawn at random.")


class QualitySpec(Section):
    """The metric on outcomes that have arrived, against the one measured when the version was judged."""

    max_drop: float = Field(
        default=0.03, gt=0, description="How much worse than at its evaluation, in the metric's own unit."
    )
    min_rows: int = Field(default=500, ge=1, description="Joined outcomes below which quality is not judged.")


class BrakesSpec(Section):
    """When bad windows become an incident, and how often an incident may start a retraining."""

    bad_windows: int = Field(default=2, ge=1, description="K: bad windows needed,")
    of_windows: int = Field(default=3, ge=1, description="N: among the newest windows.")
    cool_down_days: float = Field(
        default=14.0, ge=0, le=MAX_DAYS, description="Days of event time between two incidents."
    )
    max_incidents: int = Field(default=6, ge=0, description="Incidents allowed within budget_days.")
    budget_days: float = Field(
        default=365.0, gt=0, le=MAX_DAYS, description="Days of event time over which they are counted."
    )

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.bad_windows > self.of_windows:
            raise ValueError(
                f"bad_windows {self.bad_windows} is above of_windows {self.of_windows}, so no incident "
                "could ever open; lower bad_windows or raise of_windows"
            )
        return self


class MonitoringSpec(Section):
    """What each scheduled check looks at."""

    window: Period = Field(default="week", description="Calendar period of one check.")
    min_rows: int = Field(default=500, ge=1, description="Answered rows below which a window is not judged.")
    drift: DriftSpec = Field(default_factory=DriftSpec, description="Feature and prediction drift.")
    quality: QualitySpec = Field(default_factory=QualitySpec, description="Quality on outcomes.")
    brakes: BrakesSpec = Field(default_factory=BrakesSpec, description="From bad windows to a retraining.")


class CostSpec(Section):
    """Prices, so that each step's time becomes money."""

    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="ISO 4217 code.")
    cpu_hour: float = Field(default=0.05, ge=0, description="Price of one CPU core for one hour.")
    gpu_hour: float = Field(default=2.5, ge=0, description="Price of one GPU for one hour.")
