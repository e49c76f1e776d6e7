"""The servers behind our door."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.local.run_web import behind_door
from millrace.errors import ConfigError
from millrace.settings import Settings


@pytest.mark.parametrize("part", ["prefect", "mlflow"])
def test_a_url_without_a_port_is_told_with_its_setting(part: str, tmp_path: Path) -> None:
    url = "http://127.0.0.1"
    settings = Settings(state_dir=tmp_path, prefect_url=url, mlflow_url=url)
    with pytest.raises(ConfigError, match=f"MILLRACE_{part.upper()}_URL"):
        behind_door(part, settings)
