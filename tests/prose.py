"""A small pipeline that learns from texts, with the model of `byte_lm`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from millrace.pipeline import Pipeline, load_pipeline

NAME = "prose"
#: Documents, one every six hours of two months; every 40th is empty, so it is not learned from.
NUM_DOCUMENTS = 240

_FOLDER = Path(__file__).resolve().parents[1] / "pipelines" / "byte_lm"

_SOURCE = '''
"""Sentences made from their own number, so that every process gives the same ones."""
from datetime import datetime, UTC
import pandas as pd

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)
WHO, WHAT = ["the miller", "a fox", "her friend", "no one"], ["sees", "grinds", "carries", "eats"]

class Sentences:
    def extent(self):
        return START, END

    def fingerprint(self):
        return "sentences"

    def rows(self, start, end, as_of):
        times = pd.date_range(START, END, periods=241, inclusive="left")
        texts = [
            " ".join(f"{WHO[n % 4]} {WHAT[(n + word) % 4]} the grain{chr(10) * (word % 3 == 0)}" for word in range(9))
            for n in range(len(times))
        ]
        rows = pd.DataFrame({"at": times, "name": [f"d{n}" for n in range(len(times))], "text": texts})
        rows.loc[::40, "text"] = ""
        return rows[(rows["at"] >= start) & (rows["at"] < end) & (rows["at"] <= as_of)]
'''

_SPEC: dict[str, Any] = {
    "name": NAME,
    "data": {
        "kind": "text",
        "source": "source:Sentences",
        "event_time": "at",
        "row_id": "name",
        "text": "text",
        "sequence_length": 64,
        "max_quarantined_share": 0.1,
    },
    "model": {
        "plan": "plan:plan",
        "export": "export:llama",
        "options": {"size": "1M", "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 48},
    },
    "training": {"epochs": 4, "batch_size": 16, "learning_rate": 0.01, "validation_days": 5.0},
    "evaluation": {"metric": "bits_per_byte", "window_days": 10.0, "min_rows": 20},
}


def document(change: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Its pipeline.yaml as a mapping; `change` sets values by `section.field`."""
    found = {name: dict(part) if isinstance(part, dict) else part for name, part in _SPEC.items()}
    for dotted, value in change.items():
        section, _, field = dotted.partition(".")
        if field:
            found.setdefault(section, {})[field] = value
        else:
            found[section] = value
    return found


def write_prose(pipelines: Path, change: Mapping[str, Any] = {}) -> Pipeline:
    """Write the pipeline's folder below `pipelines` and load it."""
    folder = pipelines / NAME
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("model.py", "plan.py", "export.py"):
        shutil.copy(_FOLDER / name, folder)
    (folder / "source.py").write_text(_SOURCE)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(document(change)))
    return load_pipeline(NAME, pipelines)
