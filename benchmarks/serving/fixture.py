"""What is served and asked in this benchmark: the reference pipeline's model and contract, with random weights.

Real weights would cost a training and change nothing: the time of an answer does not depend on their values.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from millrace.spec import CategoricalFeature, NumericFeature, TableSpec

if TYPE_CHECKING:
    from benchmarks.serving.peers.servers.served_model import ServedModel

PIPELINE = Path(__file__).resolve().parents[2] / "pipelines" / "flight_delays"

_SEED = 2013
_ROWS = 16
Row = dict[str, Any]


@dataclass(frozen=True)
class Fixture:
    """A folder with `shape.json` and weights, the rows that are asked, and the right answers to them."""

    folder: Path
    shape: Mapping[str, Any]
    rows: tuple[Row, ...]

    @cached_property
    def answers(self) -> list[float]:
        """The probability of each of `rows`, by the first version, computed in this process."""
        return self.model().predict_rows(self.rows)

    def model(self, version: int = 1) -> ServedModel:
        from benchmarks.serving.peers.servers.served_model import ServedModel

        return ServedModel(self.folder, weights_name(version))


def weights_name(version: int) -> str:
    """The file of a version's weights; the peers serve the first."""
    return "weights.safetensors" if version == 1 else f"weights-{version}.safetensors"


def make_fixture(folder: Path, versions: int = 1) -> Fixture:
    """Write shape and weights into `folder`; the same at each call."""
    import safetensors.torch
    import torch

    from benchmarks.serving.peers.servers.served_model import SHAPE, inputs_of
    from pipelines.flight_delays.model import build

    document = reference_spec()
    shape = shape_of(TableSpec.model_validate(document["data"]), document["model"]["options"])
    (folder / SHAPE).write_text(json.dumps(shape))
    for version in range(1, versions + 1):
        torch.manual_seed(_SEED + version)
        module = build(inputs_of(shape), shape["options"])
        safetensors.torch.save_file(module.state_dict(), folder / weights_name(version))
    rng = random.Random(_SEED)
    return Fixture(folder, shape, tuple(draw_row(shape, rng) for _ in range(_ROWS)))


def reference_spec() -> dict[str, Any]:
    """The reference pipeline's spec, as written."""
    document: dict[str, Any] = yaml.safe_load((PIPELINE / "pipeline.yaml").read_text())
    return document


def shape_of(data: TableSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """The contract and the model's options, as a peer reads them."""
    features = data.features.items()
    return {
        "numeric": [
            {"name": name, "min": found.min, "max": found.max, "nullable": found.nullable}
            for name, found in features
            if isinstance(found, NumericFeature)
        ],
        "categorical": [
            {"name": name, "values": list(found.values), "open": found.open}
            for name, found in features
            if isinstance(found, CategoricalFeature)
        ],
        "options": dict(options),
    }


def draw_row(shape: Mapping[str, Any], rng: random.Random) -> Row:
    """A row that keeps the contract. None of its cells is missing: JSON tensors have no way to say so."""
    row: Row = {found["name"]: round(rng.uniform(found["min"], found["max"]), 3) for found in shape["numeric"]}
    return row | {found["name"]: rng.choice(found["values"]) for found in shape["categorical"]}
