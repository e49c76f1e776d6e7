"""The `serving` section."""

from __future__ import annotations

from pydantic import Field

from millrace.spec.base import Section


class ServingSpec(Section):
    """How predictions are answered."""

    replicas: int = Field(default=1, ge=1, le=1000, description="Processes that answer.")
    cpus_per_replica: float = Field(default=0.5, ge=0, description="CPU cores reserved per replica.")
    gpus_per_replica: float = Field(default=0.0, ge=0, description="GPUs reserved per replica.")
    max_ongoing_requests: int = Field(default=64, ge=1, description="Requests a replica works on at once.")
    max_rows: int = Field(default=1000, ge=1, le=100_000, description="Rows per request at the most.")
    max_body_bytes: int = Field(default=4_000_000, ge=1024, description="Size of a request body at the most.")
    log_rotate_seconds: float = Field(
        default=10.0, gt=0, description="Age at which the open segment of the inference log becomes Parquet."
    )
