"""A pipeline's folder sees millrace and torch, and what tables need; never the cluster or the orchestrator."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ALLOWED = {"millrace", "torch", "numpy", "pandas", "pyarrow", "fsspec"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pipelines").glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_a_pipeline_imports_only_what_it_may(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").split(".")[0])
    assert imported <= ALLOWED
