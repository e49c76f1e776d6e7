"""The contract as pydantic models: types, bounds, allowed categories, no unknown keys. It needs pydantic only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model


class Answers(BaseModel):
    """One probability a row."""

    predictions: list[float]


def row_model(shape: Mapping[str, Any], module: str = __name__) -> type[BaseModel]:
    """A row of the contract; `Row` of `module`, for who pickles it."""
    fields: dict[str, Any] = {}
    for feature in shape["numeric"]:
        number: Any = Annotated[float, Field(ge=feature["min"], le=feature["max"])]
        fields[feature["name"]] = (number | None, None) if feature["nullable"] else (number, ...)
    for feature in shape["categorical"]:
        fields[feature["name"]] = (str if feature["open"] else Literal[tuple(feature["values"])], ...)
    return create_model("Row", __config__=ConfigDict(extra="forbid"), __module__=module, **fields)


def request_model(row: type[BaseModel], module: str = __name__) -> Any:
    """A request: its rows, at least one; `PredictRequest` of `module`."""
    rows: Any = (list[row], Field(min_length=1, max_length=1000))  # type: ignore[valid-type]
    return create_model("PredictRequest", __config__=ConfigDict(extra="forbid"), __module__=module, rows=rows)
