"""A pipeline that serves without having been trained: a package of random weights, deployed on a running stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from infra.local.environment import environment
from millrace.settings import Settings

_ROOT = Path(__file__).resolve().parents[1]
_SECONDS = 240

BODY = {"rows": [{"delay": 1.5, "carrier": "UA"}]}

_MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(len(inputs.numeric) + len(inputs.categorical), 1)

    def forward(self, batch):
        return self.layer(torch.cat([batch["numeric"], batch["categorical"].float()], 1))

def build(inputs, options):
    return Tiny(inputs)
"""

_SPEC = {
    "data": {
        "source": "source:S",
        "event_time": "departs",
        "row_id": "flight",
        "features": {"delay": {"kind": "numeric"}, "carrier": {"kind": "categorical", "values": ["AA", "UA"]}},
        "label": {"column": "late", "kind": "binary"},
    },
    "evaluation": {"metric": "roc_auc"},
    "serving": {"log_rotate_seconds": 1.0, "cpus_per_replica": 0.5},
}

# A driver is a process of its own, as a flow's is.
_DEPLOY = """
import sys
import pandas as pd
from millrace.encoding import TableInputs
from millrace.package import LabelScale, Predictor, publish_package
from millrace.pipeline import load_pipeline
from millrace.settings import load_settings
from millrace.storage import ObjectStore
from ray_jobs.cluster import connect
from ray_jobs.serve import deploy
from ray_jobs.serve.versions import Target

settings, name = load_settings(), sys.argv[1]
pipeline = load_pipeline(name, settings.pipelines)
module = pipeline.build_model(TableInputs.shaped(pipeline.spec.data), {}).eval()
package = publish_package(
    ObjectStore.of(settings),
    f"packages/{name}",
    predictor=Predictor(pipeline.spec, module, LabelScale()),
    reference=pd.DataFrame({"delay": [1.0, 2.0], "carrier": ["AA", "UA"], "late": [0, 1]}),
    card="",
    lineage={},
    metrics={},
)
connect(settings)
deploy.deploy(settings, name, Target("1", package.key, package.digest))
"""


def deploy_tiny(settings: Settings, name: str) -> str:
    """Make the pipeline folder and let version 1 serve; returns the endpoint's URL."""
    folder = settings.pipelines / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"name": name, **json.loads(json.dumps(_SPEC))}))
    (folder / "model.py").write_text(_MODEL)
    done = subprocess.run(
        [sys.executable, "-c", _DEPLOY, name],
        cwd=_ROOT,
        env=os.environ | environment(settings),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return f"{settings.serve_url}/v1/{name}"
