"""How differently long the answers of a real model take."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from millrace.encoding import TableInputs
from millrace.package import LabelScale, Predictor
from millrace.pipeline import load_pipeline
from ray_jobs.serve.versions import LoadedVersion, Target

Floats = NDArray[np.float64]

_PIPELINES = Path(__file__).parents[2] / "pipelines"
#: Most ask for one row, some for a page of them.
_ROWS, _SHARES = (1, 2, 5, 20, 100), (0.7, 0.1, 0.1, 0.07, 0.03)
_WARM = 200


def measure(count: int = 3000, seed: int = 0) -> Floats:
    """Processor seconds of `count` answers of `flight_delays` (check, encode, model, reply), in the order asked.

    Processor time, so that what else this machine does is not in it. The model is untrained, which takes as long.
    """
    import torch

    torch.set_num_threads(1)
    pipeline = load_pipeline("flight_delays", _PIPELINES)
    spec = pipeline.spec
    module = pipeline.build_model(TableInputs.shaped(spec.table), {}).eval()
    version = LoadedVersion.of(Target("1", "", ""), Predictor(spec, module, LabelScale()))
    row = {
        name: (feature.min or 0.0) if feature.kind == "numeric" else feature.values[0]
        for name, feature in spec.table.features.items()
    }
    bodies = {number: json.dumps({"rows": [row] * number}).encode() for number in _ROWS}
    sizes = np.random.default_rng(seed).choice(_ROWS, size=count + _WARM, p=_SHARES)
    seconds = []
    for size in sizes.tolist():
        began = time.thread_time()
        batch = version.contract.parse(bodies[size]).batch
        json.dumps(version.told(version.predictor.predict(batch)).predictions)
        seconds.append(time.thread_time() - began)
    return np.array(seconds[_WARM:])
