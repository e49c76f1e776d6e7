"""The `data` section of a pipeline that learns from texts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from millrace.spec.data import DataSpec


class TextSpec(DataSpec):
    """Documents, one a row: a language model learns to predict each of their bytes from those before it."""

    kind: Literal["text"] = Field(description="Documents; their bytes are predicted.")
    text: str = Field(description="Column with the document, text that is not empty.")
    sequence_length: int = Field(
        ge=8, le=1 << 20, description="Bytes that the model sees at once, and the length of what it is fitted on."
    )

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        names = {"data.event_time": self.event_time, "data.row_id": self.row_id, "data.text": self.text}
        if len(set(names.values())) < len(names):
            told = ", ".join(f"{field} '{column}'" for field, column in names.items())
            raise ValueError(f"{told} must be three columns; name a column of its own for each")
        return self
