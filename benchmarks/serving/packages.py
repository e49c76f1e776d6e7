"""The package of a version of the fixture's model, as a training would have published it."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import safetensors.torch

from benchmarks.serving.fixture import draw_row, shape_of, weights_name
from benchmarks.serving.peers.servers.served_model import inputs_of
from millrace.package import LabelScale, Predictor, publish_package
from millrace.pipeline import Pipeline
from millrace.storage import ObjectStore
from ray_jobs.serve.versions import Target


def publish(pipeline: Pipeline, store: ObjectStore, folder: Path, version: int) -> Target:
    """Put the package of `version`, whose weights lie in the fixture's `folder`, into the store."""
    spec = pipeline.spec
    shape = shape_of(spec.table, spec.model.options)
    module = pipeline.build_model(inputs_of(shape), spec.model.options).eval()
    module.load_state_dict(safetensors.torch.load_file(folder / weights_name(version)))
    rng = random.Random(version)
    rows = pd.DataFrame([draw_row(shape, rng) for _ in range(32)])
    package = publish_package(
        store,
        f"packages/{spec.name}",
        predictor=Predictor(spec, module, LabelScale()),
        reference=rows.assign(**{spec.table.label.column: [number % 2 for number in range(len(rows))]}),
        card="",
        lineage={},
        metrics={},
    )
    return Target(str(version), package.key, package.digest)
