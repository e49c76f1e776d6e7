"""What all sections of the spec share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of `pipeline.yaml`: frozen, unknown keys refused, no silent conversion of types, no infinity, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=False
    )


#: A hundred years: more is a slip of the pen, and soon more than timestamps can hold.
MAX_DAYS = 36_525.0
