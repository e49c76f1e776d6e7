"""What a run was made with: code, packages, commit."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace import provenance
from millrace.storage import digest_bytes

FACTS = (provenance.code_digest, provenance.lock_digest, provenance.commit)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    for fact in FACTS:
        fact.cache_clear()
    yield
    for fact in FACTS:
        fact.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the layout that the digests look at."""
    for part in provenance._CODE:
        path = tmp_path / part / "code.py" if not part.endswith(".py") else tmp_path / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(part)
    (tmp_path / "flows").mkdir()
    (tmp_path / "requirements.lock").write_text("torch==1\n")
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    return tmp_path


def test_all_code_that_makes_a_model_exists() -> None:
    root = Path(provenance.__file__).parent.parent
    assert [part for part in provenance._CODE if not (root / part).exists()] == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("millrace/encoding.py", True),
        ("ray_jobs/train/code.py", True),
        ("ray_jobs/train/new.py", True),
        ("ray_jobs/train/notes.md", False),
        ("flows/training.py", False),
    ],
)
def test_the_code_digest_follows_what_changes_a_model(name: str, changes: bool, checkout: Path) -> None:
    before = provenance.code_digest()
    provenance.code_digest.cache_clear()
    (checkout / name).write_text("changed")
    assert (provenance.code_digest() != before) is changes


def test_the_lock_digest_is_the_lock_files_or_names_torch(checkout: Path) -> None:
    assert provenance.lock_digest() == digest_bytes(b"torch==1\n")
    provenance.lock_digest.cache_clear()
    (checkout / "requirements.lock").unlink()
    assert provenance.lock_digest() != digest_bytes(b"torch==1\n")
    assert len(provenance.lock_digest()) == 64


def test_the_commit_tells_of_changes(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(checkout.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert provenance.commit() == "unknown"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *command], cwd=checkout, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True)
    provenance.commit.cache_clear()
    assert provenance.commit() == head.stdout.strip()
    provenance.commit.cache_clear()
    (checkout / "millrace" / "encoding.py").write_text("changed")
    assert provenance.commit() == f"{head.stdout.strip()}+changes"


def test_without_git_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.commit() == "unknown"
