"""The `data` section: where rows come from and what those of a table must look like."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from millrace.spec.base import MAX_DAYS, Section
from millrace.window import Period


def _refuse_repeats(field: str, values: list[str]) -> None:
    repeated = sorted(value for value, count in Counter(values).items() if count > 1)
    if repeated:
        raise ValueError(f"{field} are listed twice: {', '.join(repeated)}; remove the repeats")


#: Names that features cannot have: the inference log keeps features beside these columns of its own.
LOG_COLUMNS = frozenset(
    (
        "request_id",
        "row",
        "row_id",
        "event_time",
        "version",
        "answered_at",
        "seconds",
        "prediction",
        "label",
        "known_at",
    )
)


class NumericFeature(Section):
    """A number. A value outside [min, max] puts the row into quarantine."""

    kind: Literal["numeric"]
    min: float | None = Field(default=None, description="Smallest allowed value, in the column's own unit.")
    max: float | None = Field(default=None, description="Largest allowed value, in the column's own unit.")
    nullable: bool = Field(default=False, description="Whether the value may be missing.")
    description: str = Field(default="", description="What the number means, with its unit.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; swap them")
        return self


class CategoricalFeature(Section):
    """One of a list of values. Any other value puts the row into quarantine, unless `open` is true."""

    kind: Literal["categorical"]
    values: list[str] = Field(min_length=1, description="The known categories; their order is their index.")
    open: bool = Field(default=False, description="Accept other values too; the model sees them as unknown.")
    nullable: bool = Field(default=False, description="Whether the value may be missing.")
    description: str = Field(default="", description="What the category means.")

    @model_validator(mode="after")
    def _unique(self) -> Self:
        _refuse_repeats("values", self.values)
        return self


Feature = Annotated[NumericFeature | CategoricalFeature, Field(discriminator="kind")]


class Label(Section):
    """What is predicted, and when it becomes known."""

    column: str = Field(description="Column of the label.")
    kind: Literal["binary", "multiclass", "regression"] = Field(description="What sort of answer the model gives.")
    classes: list[str] = Field(
        default_factory=list, description="The classes, for multiclass labels; their order is their index."
    )
    positive: str | None = Field(
        default=None, description="For binary labels that are not 0 and 1: the value that counts as 1."
    )
    known_at: str | None = Field(
        default=None, description="Column with the time the outcome became known; none: at the event's own time."
    )
    delay_days: float = Field(
        default=0.0,
        ge=0,
        le=MAX_DAYS,
        description="Days after which an outcome is as good as never coming. Older windows are settled.",
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        if self.kind == "multiclass" and len(self.classes) < 2:
            raise ValueError("a multiclass label needs at least two classes; list them in data.label.classes")
        _refuse_repeats("data.label.classes", self.classes)
        if self.kind != "multiclass" and self.classes:
            raise ValueError(f"a {self.kind} label has no classes; remove data.label.classes")
        if self.kind != "binary" and self.positive is not None:
            raise ValueError(f"a {self.kind} label has no positive value; remove data.label.positive")
        return self

    @property
    def outputs(self) -> int:
        """Number of values the model's last layer gives per row."""
        return len(self.classes) if self.kind == "multiclass" else 1


class DataSpec(Section):
    """Where rows come from; what they hold, each kind of data says for itself."""

    source: str = Field(
        pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$",
        description="module:Class in the pipeline's folder; built with source_options, it answers extent and rows.",
    )
    source_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments of the source. A secret stands as ${ENV:NAME}, read when the source is built.",
    )
    event_time: str = Field(description="Column with the time of the event, that is when the prediction is asked.")
    row_id: str = Field(description="Column that names a row, unique in the source.")
    partition: Period = Field(default="month", description="Calendar period of one staged shard.")
    max_quarantined_share: float = Field(
        default=0.01, ge=0, le=1, description="Share of rows that may be bad before staging fails."
    )

    @property
    def settled_after_days(self) -> float:
        """Days after which nothing new becomes known of a row."""
        return 0.0


class TableSpec(DataSpec):
    """A table: source, feature contract and label."""

    kind: Literal["table"] = Field(default="table", description="Rows of features with a label.")
    features: dict[str, Feature] = Field(min_length=1, description="The feature contract: column -> what it may hold.")
    label: Label = Field(description="What is predicted.")

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = LOG_COLUMNS | {f"probability_{name}" for name in self.label.classes}
        for name in self.features:
            if name in taken:
                raise ValueError(
                    f"feature '{name}' has the name of a column of the inference log; rename it here and in the source"
                )
        return self

    @model_validator(mode="after")
    def _no_leak(self) -> Self:
        reserved: dict[str, str] = {}
        for field, name in (
            ("data.event_time", self.event_time),
            ("data.row_id", self.row_id),
            ("data.label.column", self.label.column),
            ("data.label.known_at", self.label.known_at),
        ):
            # An outcome may be known at the event's own time; any other column has one meaning.
            if name is None or (field == "data.label.known_at" and name == self.event_time):
                continue
            if name in reserved:
                raise ValueError(f"{field} '{name}' is also {reserved[name]}; name a column of its own")
            reserved[name] = field
        for name in self.features:
            if name in reserved:
                raise ValueError(
                    f"feature '{name}' is also {reserved[name]}; a model must not see it: remove it from data.features"
                )
        return self

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the numeric features, in the spec's order."""
        return tuple(name for name, feature in self.features.items() if feature.kind == "numeric")

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the categorical features, in the spec's order."""
        return tuple(name for name, feature in self.features.items() if feature.kind == "categorical")

    @property
    def settled_after_days(self) -> float:
        return self.label.delay_days
