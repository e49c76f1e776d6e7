"""Nothing but a test opens a store that takes what nobody signed."""

from __future__ import annotations

import ast
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("millrace", "ray_jobs", "tasks", "flows", "infra", "pipelines")


def stores_without_keys(source: str) -> list[int]:
    """Lines where an ObjectStore is built without keys."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] == "ObjectStore"
        and (len(node.args) + len(node.keywords) < 2 or "None" in map(ast.unparse, node.args[1:]))
    ]


def test_a_store_without_keys_is_seen() -> None:
    assert stores_without_keys("ObjectStore(url)\nstorage.ObjectStore(url, None)\nObjectStore(url, keys)") == [1, 2]


def test_every_store_of_ours_has_keys() -> None:
    files = [path for folder in _FOLDERS for path in sorted((_ROOT / folder).rglob("*.py"))]
    assert len(files) > 80
    assert {str(path): found for path in files if (found := stores_without_keys(path.read_text()))} == {}
