"""The `model` and `training` sections."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from millrace.spec.base import MAX_DAYS, Section
from millrace.spec.layout import LayoutSpec


class ModelSpec(Section):
    """The torch module of the pipeline."""

    build: str = Field(
        default="model:build",
        pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$",
        description="module:function in the pipeline's folder: (inputs, options) -> torch.nn.Module.",
    )
    plan: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$",
        description="module:function in the pipeline's folder that says how the module can be cut over workers: "
        "(inputs, options) -> millrace.parallel.ParallelPlan; none: in copies, or sharded as a whole.",
    )
    export: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_]\w*:[A-Za-z_]\w*$",
        description="module:function in the pipeline's folder that says what the model is called elsewhere, for "
        "`millrace export`: (inputs, options, weights) -> millrace.export.Exported; none: it cannot be exported.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to these functions as they are.")


class TrainingSpec(Section):
    """How the model is fitted, and on what."""

    lookback_days: float | None = Field(
        default=None, gt=0, le=MAX_DAYS, description="Train on the newest days only; none: on all."
    )
    validation_days: float = Field(
        default=7.0, gt=0, le=MAX_DAYS, description="Newest training days kept aside for early stopping, split by time."
    )
    epochs: int = Field(default=5, ge=1, le=10_000, description="Passes over the training rows at the most.")
    max_steps: int | None = Field(default=None, ge=1, description="Optimizer steps at the most; none: whole epochs.")
    validate_every_steps: int | None = Field(
        default=None, ge=1, description="Steps between validations; none: one after each epoch."
    )
    patience: int = Field(default=2, ge=1, description="Stop after this many validations without a better loss.")
    batch_size: int = Field(default=2048, ge=1, description="Rows per optimizer step, over all workers.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate of AdamW (one-cycle).")
    weight_decay: float = Field(default=1e-2, ge=0, description="Decoupled weight decay of AdamW.")
    gradient_clip: float = Field(default=1.0, gt=0, description="Largest norm of the gradient.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32", description="Arithmetic of the forward pass; fp16 comes with a loss scale."
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        default="none", description="What of each block is recomputed in the backward pass instead of kept in memory."
    )
    compile: bool = Field(default=False, description="Compile each block of the module (torch.compile).")
    gradient_accumulation: int = Field(
        default=1, ge=1, description="Parts in which a worker works on its share of a batch, one after the other."
    )
    layout: Literal["auto"] | LayoutSpec = Field(
        default="auto",
        description="How the model is spread over the workers; auto: copies of it while there is room, else sharded.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of initial weights and of the shuffle.")
    num_workers: int = Field(default=1, ge=1, description="Workers; with min_workers, at the most.")
    min_workers: int | None = Field(
        default=None, ge=1, description="Go on with as few when others are lost or the cluster is small; none: wait."
    )
    use_gpu: bool = Field(default=False, description="One GPU per worker.")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPU cores reserved per worker.")
    max_failures: int = Field(
        default=2, ge=0, description="Lost workers and hangs survived before training fails; preemptions do not count."
    )
    checkpoint_every_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps between checkpoints; none: as often as their measured cost and the failures make best.",
    )
    shard_cache_gb: float = Field(
        default=20.0, gt=0, description="Disk of each node for shards that are not on it, in gigabytes."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, fields: Any) -> Any:
        """Packages keep the spec that they were trained by: fields which are called otherwise now, or are gone."""
        if isinstance(fields, dict) and "patience_epochs" in fields and "patience" not in fields:
            fields = {**fields, "patience": fields["patience_epochs"]}
        gone = ("patience_epochs", "checkpoint_every_epochs")
        return {k: v for k, v in fields.items() if k not in gone} if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _workers_fit(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) is above num_workers ({self.num_workers}); lower it or leave it out"
            )
        if (
            self.min_workers not in (None, self.num_workers)
            and isinstance(self.layout, LayoutSpec)
            and self.layout.data_parallel_shard != -1
        ):
            raise ValueError(
                "min_workers lets the number of workers change, and the layout fixes it; "
                "set layout.data_parallel_shard to -1, or leave one of the two out"
            )
        return self
