"""`pipeline.yaml` as one frozen value."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from millrace.errors import ConfigError
from millrace.secrets import secret_fields, secret_texts
from millrace.spec.approvals import ApprovalsSpec
from millrace.spec.base import Section
from millrace.spec.data import CategoricalFeature, DataSpec, Feature, Label, NumericFeature, TableSpec
from millrace.spec.evaluation import HIGHER_IS_BETTER, METRICS, TEXT_METRIC, EvaluationSpec, Metric
from millrace.spec.layout import LayoutSpec
from millrace.spec.monitoring import BrakesSpec, CostSpec, DriftSpec, MonitoringSpec, QualitySpec
from millrace.spec.rollout import RolloutSpec, StepSpec
from millrace.spec.serving import AutoscalingSpec, GuardSpec, ServingSpec
from millrace.spec.text import TextSpec
from millrace.spec.training import ModelSpec, TrainingSpec

__all__ = [
    "HIGHER_IS_BETTER",
    "METRICS",
    "TEXT_METRIC",
    "ApprovalsSpec",
    "AutoscalingSpec",
    "BrakesSpec",
    "CategoricalFeature",
    "CostSpec",
    "Data",
    "DataSpec",
    "DriftSpec",
    "EvaluationSpec",
    "Feature",
    "GuardSpec",
    "Label",
    "LayoutSpec",
    "Metric",
    "ModelSpec",
    "MonitoringSpec",
    "NumericFeature",
    "PipelineSpec",
    "QualitySpec",
    "RolloutSpec",
    "ServingSpec",
    "StepSpec",
    "TableSpec",
    "TextSpec",
    "TrainingSpec",
]


def _kind(data: Any) -> str:
    """Which kind of data a section is about; without a word, a table."""
    return str(data.get("kind", "table")) if isinstance(data, dict) else getattr(data, "kind", "table")


#: What a pipeline may learn from.
Data = Annotated[
    Annotated[TableSpec, Tag("table")] | Annotated[TextSpec, Tag("text")],
    Discriminator(_kind, "kind", "kind is table or text, and table where it is left out"),
]


class PipelineSpec(Section):
    """One model's whole life."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,62}$", description="Name of the pipeline: its folder's, in its URL and its model's."
    )
    description: str = Field(default="", description="One line for people.")
    owner: str = Field(default="", description="Who answers for it.")
    data: Data = Field(description="Source, and what its rows hold: features and a label, or documents.")
    model: ModelSpec = Field(default_factory=ModelSpec, description="The torch module.")
    training: TrainingSpec = Field(default_factory=TrainingSpec, description="How it is fitted.")
    evaluation: EvaluationSpec = Field(description="How a challenger is judged.")
    serving: ServingSpec = Field(default_factory=ServingSpec, description="How predictions are answered.")
    rollout: RolloutSpec | None = Field(
        default=None, description="How a better version is given traffic; none: all of it at once."
    )
    monitoring: MonitoringSpec = Field(default_factory=MonitoringSpec, description="Checks and brakes.")
    approvals: ApprovalsSpec = Field(default_factory=ApprovalsSpec, description="What waits for a person.")
    costs: CostSpec = Field(default_factory=CostSpec, description="Prices.")

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, document: Any) -> Any:
        # Before any field is judged, as a judgement shows what it got; the spec is kept in packages and shown in UIs.
        if isinstance(document, dict) and (found := [path for key in document for path in _secrets(document, key)]):
            raise ValueError(
                f"{', '.join(found)} must not hold a secret, as specs are kept and shown; write ${{ENV:NAME}} in "
                "data.source_options, and set the variable NAME where the stack is started"
            )
        return document

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        field, kind, categorical = "data.kind", str(self.data.kind), tuple[str, ...]()
        if isinstance(self.data, TableSpec):
            field, kind, categorical = "data.label.kind", self.data.label.kind, self.data.categorical
        elif self.rollout is not None:
            raise ValueError("rollout moves traffic, and models of texts are not served; remove the section")
        allowed = METRICS[kind]
        if self.evaluation.metric not in allowed:
            raise ValueError(
                f"evaluation.metric '{self.evaluation.metric}' does not fit {field} "
                f"'{kind}'; use one of: {', '.join(allowed)}"
            )
        for name in self.evaluation.slices:
            if name not in categorical:
                raise ValueError(
                    f"evaluation.slices names '{name}', which is no categorical feature; "
                    f"use some of: {', '.join(categorical) or '(none declared)'}"
                )
        if self.training.lookback_days is not None and self.training.lookback_days <= self.training.validation_days:
            raise ValueError(
                f"training.lookback_days {self.training.lookback_days:g} leaves nothing before the "
                f"validation_days {self.training.validation_days:g}; raise lookback_days"
            )
        if self.training.batch_size < self.training.num_workers:
            raise ValueError(
                f"training.batch_size {self.training.batch_size} is below num_workers {self.training.num_workers}; "
                "each worker needs at least one row a step"
            )
        return self

    @property
    def is_served(self) -> bool:
        """Whether the pipeline's models answer requests; those of texts do not yet."""
        return isinstance(self.data, TableSpec)

    @property
    def table(self) -> TableSpec:
        """The `data` section of a pipeline that learns from a table.

        Raises:
            ConfigError: it learns from texts.
        """
        if isinstance(self.data, TableSpec):
            return self.data
        raise self._unserved()

    def require_served(self) -> None:
        """Refuse what only makes sense of models that answer requests.

        Raises:
            ConfigError: the pipeline's do not.
        """
        if not self.is_served:
            raise self._unserved()

    def _unserved(self) -> ConfigError:
        return ConfigError(
            f"pipeline '{self.name}' learns from texts: its models are not served, so they are not asked or checked",
            got=f"data.kind {self.data.kind}",
            allowed="a pipeline whose data.kind is table",
            next=f"use `millrace run {self.name}`, `versions`, `history` or `export` with it",
        )

    @property
    def texts(self) -> TextSpec:
        """The `data` section of a pipeline that learns from texts.

        Raises:
            ConfigError: it learns from a table.
        """
        if isinstance(self.data, TextSpec):
            return self.data
        raise ConfigError(
            f"pipeline '{self.name}' learns from a table, this is for those that learn from texts",
            got=f"data.kind {self.data.kind}",
            allowed="a pipeline whose data.kind is text",
        )


def _secrets(document: dict[Any, Any], section: Any) -> list[str]:
    """Dotted paths of secrets in a section. In options their names count too; a column may be named as it likes."""
    value = document[section]
    if isinstance(value, dict) and section in ("data", "model"):
        name = "source_options" if section == "data" else "options"
        others = {key: item for key, item in value.items() if key != name}
        return secret_fields(value.get(name), f"{section}.{name}") + secret_texts(others, str(section))
    return secret_texts(value, str(section))
