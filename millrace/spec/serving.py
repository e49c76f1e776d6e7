"""The `serving` section."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from millrace.limits import Limit
from millrace.spec.base import Section


class GuardSpec(Section):
    """What a version that was just promoted may do at the worst before the one that served before serves again."""

    enabled: bool = Field(default=True, description="Whether a breach rolls back by itself.")
    watch_minutes: float = Field(
        default=60.0, gt=0, description="Minutes after a promotion during which the guard watches."
    )
    window_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="Seconds of the newest requests that are judged together."
    )
    min_requests: int = Field(default=50, ge=1, description="Requests in the window below which nothing is judged.")
    max_failed_share: float = Field(
        default=0.1, ge=0, lt=1, description="Share of requests that may fail (5xx answers) before it is a breach."
    )
    max_p99_ms: float | None = Field(
        default=None, gt=0, description="Milliseconds that 99 of 100 answers may take to compute; none: any."
    )


class CustomerLimitSpec(Section):
    """How often each customer may ask that has no limit of its own (`millrace keys limit`)."""

    rate: float = Field(gt=0, description="Requests a second in the long run, over all replicas.")
    burst: int | None = Field(default=None, ge=1, description="Requests at once; none: a second's worth.")

    @property
    def limit(self) -> Limit:
        return Limit.of(self.rate, self.burst)


class CacheSpec(Section):
    """Answers that each replica remembers, for models whose answer depends on the features alone."""

    max_mb: float = Field(default=32.0, gt=0, le=65_536, description="Megabytes a replica and version keeps at most.")
    ttl_seconds: float = Field(default=3600.0, gt=0, description="Age at which an answer is forgotten.")
    per_customer: bool = Field(
        default=False, description="Whether customers share nothing: then none can tell from the time what others ask."
    )


class AutoscalingSpec(Section):
    """How many processes answer, by what is asked: as many as keep `latency_target_ms` until more could come up."""

    min_replicas: int = Field(default=1, ge=1, le=1000, description="Processes that always answer.")
    max_replicas: int = Field(ge=1, le=1000, description="Processes at the most.")
    cool_down_seconds: float = Field(
        default=120.0,
        ge=5,
        le=86_400,
        description="Seconds for which fewer processes must have been enough before some are stopped.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}; swap them")
        return self


class ServingSpec(Section):
    """How predictions are answered."""

    replicas: int = Field(
        default=1, ge=1, le=1000, description="Processes that answer; with `autoscaling`, that decides instead."
    )
    autoscaling: AutoscalingSpec | None = Field(
        default=None, description="Processes by what is asked; none: always as many as `replicas` says."
    )
    cpus_per_replica: float = Field(default=0.5, ge=0, description="CPU cores reserved per replica.")
    gpus_per_replica: float = Field(default=0.0, ge=0, description="GPUs reserved per replica.")
    max_ongoing_requests: int = Field(
        default=64, ge=1, description="Requests a replica works on at once; others wait, and customers take turns."
    )
    max_rows: int = Field(default=1000, ge=1, le=100_000, description="Rows per request at the most.")
    max_body_bytes: int = Field(default=4_000_000, ge=1024, description="Size of a request body at the most.")
    log_rotate_seconds: float = Field(
        default=10.0, gt=0, description="Age at which the open segment of the inference log becomes Parquet."
    )
    trace_days: float = Field(
        default=7.0, gt=0, le=3650, description="Days after which traces are removed; the inference log stays."
    )
    customer_limit: CustomerLimitSpec | None = Field(
        default=None, description="How often a customer without a limit of its own may ask; none: any time."
    )
    customer_quota: int | None = Field(
        default=None,
        ge=1,
        description="Requests for predictions that a customer without a quota of its own may have answered in a day "
        "(UTC), over all replicas; none: any number.",
    )
    latency_target_ms: float | None = Field(
        default=None,
        gt=0,
        le=3_600_000,
        description="Milliseconds that 99 of 100 answers should take at most. Batches are as large as it allows, and "
        "what cannot be answered in time is refused at once (503); none: nothing is refused for being late.",
    )
    cache: CacheSpec | None = Field(default=None, description="Which answers are remembered; none: no answers.")
    guard: GuardSpec = Field(default_factory=GuardSpec, description="When a new version is rolled back by itself.")
