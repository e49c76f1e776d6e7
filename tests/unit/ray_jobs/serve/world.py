"""A pipeline folder of a few lines and packages of it, without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from millrace.encoding import TableInputs
from millrace.package import PROBE, LabelScale, Predictor, publish_package
from millrace.pipeline import Pipeline, load_pipeline
from millrace.spec import PipelineSpec
from millrace.storage import ObjectStore
from ray_jobs.serve.versions import Target

MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(len(inputs.numeric) + len(inputs.categorical), inputs.outputs)

    def forward(self, batch):
        return self.layer(torch.cat([batch["numeric"], batch["categorical"].float()], 1))

def build(inputs, options):
    return Tiny(inputs)
"""


class World:
    """One pipeline `tiny`, its store and its log folder."""

    def __init__(self, root: Path, label: dict[str, Any]) -> None:
        folder = root / "pipelines" / "tiny"
        folder.mkdir(parents=True)
        metric = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}[label["kind"]]
        document = {
            "name": "tiny",
            "data": {
                "source": "source:S",
                "event_time": "departs",
                "row_id": "flight",
                "features": {
                    "delay": {"kind": "numeric", "min": -10.0, "max": 100.0},
                    "carrier": {"kind": "categorical", "values": ["AA", "UA"]},
                },
                "label": {"column": "late"} | label,
            },
            "evaluation": {"metric": metric},
            "serving": {"max_rows": 3, "max_body_bytes": 1024},
        }
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(document))
        (folder / "model.py").write_text(MODEL)
        self.pipeline: Pipeline = load_pipeline("tiny", root / "pipelines")
        self.store = ObjectStore(str(root / "objects"))
        self.log_folder = root / "inference" / "tiny"

    def publish(self, version: str, *, broken: bool = False, spec: PipelineSpec | None = None) -> Target:
        """The package of `version`, by the pipeline's spec or another; a broken one answers otherwise than its probe
        says."""
        spec = spec or self.pipeline.spec
        torch.manual_seed(int(version))
        module = self.pipeline.build_model(TableInputs.shaped(spec.data), {}).eval()
        rows = pd.DataFrame({"delay": [1.0, 2.0], "carrier": ["AA", "UA"], "late": [0, 1]})
        rows = rows.reindex(columns=[*spec.data.features, "late"])
        package = publish_package(
            self.store,
            f"packages/{version}",
            predictor=Predictor(spec, module, LabelScale(10.0, 2.0)),
            reference=rows,
            card="",
            lineage={},
            metrics={},
        )
        if broken:
            files = {name: package.read(name) for name in package.entries}
            probe = json.loads(files[PROBE])
            probe["answers"] = [0.5 for _ in probe["answers"]]
            package = self.store.publish(f"packages/broken-{version}", files | {PROBE: json.dumps(probe).encode()})
        return Target(version, package.key, package.digest)
