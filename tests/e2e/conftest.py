"""A small pipeline whose world changes, made once, on the suite's stack."""

from __future__ import annotations

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
    spec = made.folder / "pipeline.yaml"
    text = spec.read_text()
    changed = {
        "bad_windows": 1,
        "of_windows": 1,
        "cool_down_days": 20,
        "epochs": 8,
        "window_days": 10.0,
        "validation_days": 5.0,
        "# lookback_days": 20.0,
    }
    for key, value in changed.items():
        text = _set(text, key, value)
    spec.write_text(text)
    return name


def _set(text: str, key: str, value: float) -> str:
    """Replace the value of `key`, which stands alone on one line."""
    lines = text.splitlines()
    found = [number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
    assert len(found) == 1, f"{key} stands {len(found)} times in the generated pipeline.yaml"
    indent = lines[found[0]][: len(lines[found[0]]) - len(lines[found[0]].lstrip())]
    lines[found[0]] = f"{indent}{key.removeprefix('# ')}: {value}"
    return "\n".join(lines) + "\n"
