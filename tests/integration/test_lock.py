"""What requirements.lock must keep working: sets that `pip check` likes and that do not import are common."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

_LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


@pytest.mark.parametrize(
    "statement",
    [
        "from prefect.server.api.server import create_app; create_app()",
        "from evidently import Report; from evidently.presets import DataDriftPreset",
        "from ray import serve; serve.deployment(type('D', (), {}))",
        "import ray.train.torch, torch; assert torch.tensor([1.0]).sum() == 1",
        "from mlflow.server.fastapi_app import app; assert app.routes",
        "import s3fs, pandas, pyarrow.parquet, safetensors.torch",
    ],
    ids=["prefect server", "evidently", "ray serve", "ray train", "mlflow server", "data"],
)
def test_it_imports(statement: str, tmp_path: Path) -> None:
    script = "import os; os.environ.update(DO_NOT_TRACK='1', PREFECT_HOME='.', MLFLOW_TRACKING_URI='sqlite:///m.db')\n"
    done = subprocess.run(
        [sys.executable, "-c", script + statement], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_installed_is_what_is_locked() -> None:
    pins = [
        line.split("==") for line in _LOCK.read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))
    ]
    assert len(pins) > 150, "the lock pins packages transitively"
    wrong = {name: (version(name), pin) for name, pin in pins if version(name).split("+")[0] != pin}
    assert not wrong


def test_the_lock_names_no_registry_and_no_machine() -> None:
    text = _LOCK.read_text()
    assert "://" not in text
    assert "+cpu" not in text
