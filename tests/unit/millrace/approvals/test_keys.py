"""An approver's private key: read from its own file only, and told to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace import secrets
from millrace.approvals.keys import PrivateKey, key_path, load_key
from millrace.errors import ConfigError
from tests.full_disk import run_on_full_disk


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    secrets.forget_all()


def test_a_key_that_was_read_is_a_secret(tmp_path: Path) -> None:
    path = key_path(tmp_path, "ann")
    made = PrivateKey.new()
    made.save(path)
    secrets.forget_all()
    name, key = load_key(tmp_path, None)
    assert (name, key.public) == ("ann", made.public)
    text = path.read_text().strip()
    assert secrets.redact(f"cannot sign with {text}") == "cannot sign with ***"
    assert made.public in secrets.redact(made.public), "the public one is none"


def test_a_key_is_whole_or_absent_and_never_replaced(tmp_path: Path) -> None:
    code = """
import sys, pathlib
from millrace.approvals.keys import PrivateKey
PrivateKey.new().save(pathlib.Path(sys.argv[1]))
"""
    path = key_path(tmp_path, "ann")
    assert "OSError" in run_on_full_disk(code, str(path))
    assert list(tmp_path.iterdir()) == []
    made = PrivateKey.new()
    made.save(path)
    assert (path.stat().st_mode & 0o777, [*tmp_path.iterdir()]) == (0o600, [path])
    with pytest.raises(ConfigError, match="exists"):
        PrivateKey.new().save(path)
    assert load_key(tmp_path, "ann")[1].public == made.public
