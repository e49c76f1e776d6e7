"""One world: a pipeline whose meaning turns around, a ledger, objects, the systems outside; and what is compared."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from millrace.ledger import Ledger
from millrace.settings import Settings
from millrace.signing import Keys
from millrace.storage import MANIFEST, Artifact, ObjectStore
from tests.chaos.outside import Outside

PIPELINE = "turning"

SOURCE = '''
"""What `size` means turns around in February, so a model of January goes wrong."""
from datetime import datetime, UTC
import numpy as np, pandas as pd

START, TURN, END = (datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 4))

class Turning:
    def extent(self):
        return START, END

    def fingerprint(self):
        return "turning"

    def rows(self, start, end, as_of):
        at = pd.date_range(START, END, freq="4h", inclusive="left")
        number = np.arange(len(at))
        size = np.sin(number * 1.7) * 5
        answer = np.where(at < TURN, size > 0, size < 0).astype(float)
        table = pd.DataFrame({"at": at, "id": number, "size": size, "answer": answer})
        table.loc[at >= as_of, "answer"] = None
        return table[(at >= start) & (at < end)]
'''

MODEL = """
import torch

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, batch):
        return self.layer(batch["numeric"])

def build(inputs, options):
    return Line()
"""

SPEC = {
    "name": PIPELINE,
    "data": {
        "source": "source:Turning",
        "event_time": "at",
        "row_id": "id",
        "features": {"size": {"kind": "numeric"}},
        "label": {"column": "answer", "kind": "binary"},
    },
    "training": {"num_workers": 1, "epochs": 3, "learning_rate": 0.5, "validation_days": 4.0, "lookback_days": 20.0},
    # A stack has six CPUs to give, and real schedules make a pipeline of each three.
    "serving": {"cpus_per_replica": 0.01},
    "evaluation": {"metric": "roc_auc", "window_days": 6.0, "min_rows": 20, "bootstrap_samples": 50},
    "monitoring": {
        "window": "month",
        "min_rows": 50,
        "quality": {"min_rows": 50, "max_drop": 0.1},
        "brakes": {"bad_windows": 1, "of_windows": 1, "cool_down_days": 10.0},
    },
}

#: Entries that tell how a run came along, not what was decided: they differ between worlds by design.
_INCIDENTAL = ("_slot_taken", "_slot_released", "run_resumed", "run_started", "check_begun")


class World:
    """All state below one folder. `settings` point at it; nothing else is touched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(state_dir=folder / "state", pipelines_dir=folder / "pipelines")
        Keys(self.settings.signing_key).create()
        self.outside = Outside(folder)

    def create(self) -> World:
        """Write the pipeline's folder, and the key that signs."""
        Keys(self.settings.signing_key).create()
        pipeline = self.folder / "pipelines" / PIPELINE
        pipeline.mkdir(parents=True)
        (pipeline / "pipeline.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
        (pipeline / "source.py").write_text(SOURCE)
        (pipeline / "model.py").write_text(MODEL)
        return self

    def copy(self, folder: Path) -> World:
        """The same world in another folder."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("*.lock"))
        return World(folder)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger)

    def outcome(self) -> dict[str, Any]:
        """What must be the same whatever happened on the way."""
        ledger, state = self.ledger, self.outside.read()
        ledger.verify()
        model = state["mlflow"]["models"].get(PIPELINE, {"versions": [], "aliases": {}})
        served = state["serve"].get(PIPELINE, {})
        return {
            "aliases": model["aliases"],
            # A zombie may leave a version behind that the ledger knows nothing of: MLflow has no compare-and-set.
            "versions": [
                (v["version"], v["tags"]["millrace.package_digest"])
                for v in model["versions"]
                if ledger.entries(PIPELINE, "registered", subject=v["version"])
            ],
            "mlflow_runs": {key: _without_speed(run) for key, run in state["mlflow"]["runs"].items()},
            "served": (served.get("version"), served.get("digest")),
            "moves": served.get("moves", []),
            "artifacts": self._artifacts(),
            "ledger": _decisions(ledger),
            "runs": Counter((run["flow"], run["state"]) for run in state["runs"].values() if run["flow"] != "respond"),
            "unanswered": [incident.key for incident in ledger.outbox.unanswered()],
            "heartbeats": [beat.run for beat in ledger.heartbeats.all()],
            "held_slots": [slot for slot in ("training", "serving") if ledger.slots.holder(PIPELINE, slot)],
        }

    def _artifacts(self) -> dict[str, str]:
        """Digest by key of what is committed; what a killed writer left unreferenced does not count.

        How many checkpoints there are depends on what was lost on the way; they are verified, and no part of it.
        """
        found = committed(self.settings, "")
        return {each.key: each.digest for each in found if not each.key.startswith("checkpoints/")}


def committed(settings: Settings, prefix: str) -> list[Artifact]:
    """All artifacts below `prefix`, each verified to its last byte: signature, sizes, digests."""
    store, root, found = ObjectStore.of(settings), Path(settings.objects), []
    for path in sorted((root / prefix).rglob(MANIFEST)):
        artifact = store.get(str(path.parent.relative_to(root)))
        for name in artifact.entries:
            artifact.read(name)
        found.append(artifact)
    return found


def _without_speed(run: dict[str, Any]) -> dict[str, Any]:
    """An MLflow run without what a clock measured."""
    measured = ("rows_per_second", "mfu", "peak_memory_bytes")
    metrics = {name: value for name, value in run["metrics"].items() if not name.startswith(measured)}
    return {**run, "metrics": metrics}


def _decisions(ledger: Ledger) -> list[str]:
    """What was decided, in order of kind and subject, without times and numbers of entries."""
    kept = []
    for entry in ledger.entries():
        if entry.kind.endswith(_INCIDENTAL):
            continue
        detail = {name: value for name, value in entry.detail.items() if name not in ("train_seconds", "because")}
        kept.append(json.dumps([entry.kind, entry.subject, entry.actor, detail], sort_keys=True))
    return sorted(kept)


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs between two outcomes, in words."""
    return [text for name in expected for text in _differs(name, expected[name], found[name])]


def _differs(name: str, expected: Any, found: Any) -> list[str]:
    if expected == found:
        return []
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = sorted({*expected, *found}, key=str)
        return [text for key in keys for text in _differs(f"{name}.{key}", expected.get(key), found.get(key))]
    if isinstance(expected, list) and isinstance(found, list):
        missing, more = (
            [item for item in one if item not in other] for one, other in ((expected, found), (found, expected))
        )
        return [f"{name}: lacks {missing}, has {more}, {len(found)} instead of {len(expected)}"]
    return [f"{name}: {found} instead of {expected}"]
