"""From rows to tensors: the same code for training, evaluation and serving.

Numeric features keep their raw values (NaN where missing); the model normalises them with statistics that travel in
its weights. A category becomes its index in the contract, counted from 1; 0 is missing or unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from millrace.spec import TableSpec

if TYPE_CHECKING:
    import pandas as pd

_SMALLEST_STD = 1e-6


@dataclass(frozen=True)
class Moments:
    """Of each column, how many values are known, their mean, and the sum of their squared differences from it.

    Parts of a table are added to what the whole would have given (Chan, Golub & LeVeque 1979).
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Self:
        """Of [rows, columns], NaN where nothing is known."""
        known = ~np.isnan(values)
        count = known.sum(axis=0).astype(np.float64)
        mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1)
        return cls(count, mean, np.where(known, (values - mean) ** 2, 0.0).sum(axis=0))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        return Moments(count, self.mean + apart * share, self.squares + other.squares + apart**2 * self.count * share)

    @property
    def std(self) -> NDArray[np.float64]:
        """Of the population."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


@dataclass(frozen=True)
class TableInputs:
    """What a model's build function learns of its inputs: names, statistics and sizes, no rows."""

    numeric: tuple[str, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    categorical: tuple[str, ...]
    cardinalities: tuple[int, ...]
    outputs: int

    @classmethod
    def fit(cls, rows: pd.DataFrame, data: TableSpec) -> Self:
        """Statistics of the training rows; a missing value does not count."""
        return cls.of_moments(data, Moments.of(numeric_array(rows, data).astype(np.float64)))

    @classmethod
    def of_moments(cls, data: TableSpec, moments: Moments) -> Self:
        """With the statistics of the numeric features."""
        stds = np.where(moments.std > _SMALLEST_STD, moments.std, 1.0)
        return cls.shaped(data, tuple(moments.mean.tolist()), tuple(stds.tolist()))

    @classmethod
    def shaped(cls, data: TableSpec, means: tuple[float, ...] = (), stds: tuple[float, ...] = ()) -> Self:
        """Inputs of the right shape; without statistics, for a module whose weights are loaded next."""
        features = [data.features[name] for name in data.categorical]
        return cls(
            numeric=data.numeric,
            means=means or (0.0,) * len(data.numeric),
            stds=stds or (1.0,) * len(data.numeric),
            categorical=data.categorical,
            cardinalities=tuple(len(feature.values) for feature in features if feature.kind == "categorical"),
            outputs=data.label.outputs,
        )


def numeric_array(rows: pd.DataFrame, data: TableSpec) -> NDArray[np.float32]:
    """float32 [rows, numeric features], NaN where missing."""
    if not data.numeric:
        return np.zeros((len(rows), 0), np.float32)
    return rows[list(data.numeric)].to_numpy(dtype=np.float32, na_value=np.nan)


def categorical_array(rows: pd.DataFrame, data: TableSpec) -> NDArray[np.int64]:
    """int64 [rows, categorical features]; 0 is missing or unknown."""
    columns = np.zeros((len(rows), len(data.categorical)), np.int64)
    for position, name in enumerate(data.categorical):
        feature = data.features[name]
        if feature.kind == "categorical":
            columns[:, position] = _places(rows[name], feature.values) + 1
    return columns


def _places(column: pd.Series, known: list[str]) -> NDArray[np.intp]:
    """int [rows]: where each value stands in `known`, -1 where it does not."""
    import pandas as pd  # the command line has the spec's types from here, and should not wait for it

    return pd.Index(known).get_indexer(pd.Index(column.astype("object")))


def encode(rows: pd.DataFrame, data: TableSpec) -> dict[str, NDArray[Any]]:
    """The model's input batch: `numeric` float32 [rows, n] and `categorical` int64 [rows, m]."""
    return {"numeric": numeric_array(rows, data), "categorical": categorical_array(rows, data)}


def labels(rows: pd.DataFrame, data: TableSpec) -> NDArray[np.float32]:
    """float32 [rows]: 0/1 for binary, the class index for multiclass, the value for regression; NaN where unknown."""
    column, label = rows[data.label.column], data.label
    if label.kind == "multiclass":
        index = _places(column, label.classes).astype(np.float32)
        return np.where(index < 0, np.float32(np.nan), index)
    if label.kind == "binary" and label.positive is not None:
        known = column.notna().to_numpy()
        hit = (column.astype("string") == label.positive).fillna(False).to_numpy()
        return np.where(known, hit, np.nan).astype(np.float32)
    return column.to_numpy(dtype=np.float32, na_value=np.nan)
