"""The one model that every server answers with: the reference pipeline's module, its weights, and its contract.

It runs in the environment of each server, so it needs torch, numpy and safetensors only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

from pipelines.flight_delays.model import build

#: Names the folder in which `shape.json` and the weights lie.
FOLDER_VARIABLE = "MILLRACE_BENCH_MODEL"
SHAPE = "shape.json"
WEIGHTS = "weights.safetensors"


class ServedModel:
    """Probabilities for rows of the contract; one thread, as servers scale by processes."""

    def __init__(self, folder: Path, weights: str = WEIGHTS) -> None:
        torch.set_num_threads(1)
        self.shape: dict[str, Any] = json.loads((folder / SHAPE).read_bytes())
        self.numeric: list[str] = [feature["name"] for feature in self.shape["numeric"]]
        self.categorical: list[str] = [feature["name"] for feature in self.shape["categorical"]]
        self._indexes = [
            {value: at + 1 for at, value in enumerate(feature["values"])} for feature in self.shape["categorical"]
        ]
        self._module = build(inputs_of(self.shape), self.shape["options"]).eval()
        self._module.load_state_dict(safetensors.torch.load_file(folder / weights))

    @classmethod
    def of_environment(cls) -> ServedModel:
        """The model of the folder that the environment names."""
        return cls(Path(os.environ[FOLDER_VARIABLE]))

    def predict_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """One probability a row; a missing number is None or NaN, a missing category None."""
        numeric = np.array([[row[name] for name in self.numeric] for row in rows], np.float32)
        return self.predict(numeric, [[row[name] for name in self.categorical] for row in rows])

    def predict(self, numeric: NDArray[np.float32], categories: Sequence[Sequence[Any]]) -> list[float]:
        """One probability a row, of float32 [rows, numeric features] and as many lists of category names."""
        indexes = [
            [lookup.get(value, 0) for lookup, value in zip(self._indexes, row, strict=True)] for row in categories
        ]
        with torch.inference_mode():
            batch = {"numeric": torch.from_numpy(numeric), "categorical": torch.tensor(indexes, dtype=torch.int64)}
            answers: list[float] = torch.sigmoid(self._module(batch)[:, 0]).tolist()
        return answers


def inputs_of(shape: Mapping[str, Any]) -> Any:
    """What the module's build function learns of its inputs; see `millrace.encoding.TableInputs`."""
    return SimpleNamespace(
        numeric=tuple(feature["name"] for feature in shape["numeric"]),
        means=tuple((feature["min"] + feature["max"]) / 2 for feature in shape["numeric"]),
        stds=tuple((feature["max"] - feature["min"]) / 4 for feature in shape["numeric"]),
        categorical=tuple(feature["name"] for feature in shape["categorical"]),
        cardinalities=tuple(len(feature["values"]) for feature in shape["categorical"]),
        outputs=1,
    )
