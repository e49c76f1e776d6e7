"""A small pipeline whose world changes, made once, on the suite's stack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from millrace.scaffold.write import create_pipeline

NUM_ROWS = 9000
FIRST, LAST = "2024-02-01", "2024-05-01"


def drifting_table(path: Path, *, num_rows: int = NUM_ROWS, seed: int = 0) -> None:
    """Four months of events; what `x` means turns around after the first, so a frozen model goes wrong."""
    generator = np.random.default_rng(seed)
    times = pd.date_range("2024-01-01", "2024-05-01", periods=num_rows + 1, inclusive="left")
    x, y = generator.normal(size=(2, num_rows))
    plan = generator.choice(["basic", "plus", "pro"], num_rows)
    meaning = np.where(times < pd.Timestamp("2024-02-01"), 1.0, -1.0)
    chance = 1 / (1 + np.exp(-(3 * x * meaning + 0.8 * y + (plan == "pro") - 0.5)))
    left = np.where(generator.random(num_rows) < chance, "yes", "no")
    pd.DataFrame({"asked_at": times, "x": x, "y": y, "plan": plan, "left": left}).to_csv(path, index=False)


@pytest.fixture(scope="session")
def churn(live_pipelines: Path) -> str:
    """The name of the drifting pipeline, its brakes loosened so that one bad month is enough."""
    name = "churn"
    table = live_pipelines.parent / "churn.csv"
    drifting_table(table)
    made = create_pipeline(name, str(table), time="asked_at", label="left", pipelines_dir=live_pipelines)
    changed = {
        "bad_windows": 1,
        "of_windows": 1,
        "cool_down_days": 20,
        "epochs": 8,
        "window_days": 10.0,
        "validation_days": 5.0,
        "lookback_days": 20.0,
    }
    set_values(made.folder / "pipeline.yaml", changed)
    return name


def set_values(spec: Path, changed: Mapping[str, float]) -> None:
    """Change values of a generated pipeline.yaml, each of which stands once, perhaps commented out."""
    text = spec.read_text()
    for key, value in changed.items():
        text, count = re.subn(rf"^( *)(# )?{key}: .*$", rf"\g<1>{key}: {value}", text, flags=re.MULTILINE)
        assert count == 1, f"{key} stands {count} times in {spec}"
    spec.write_text(text)
