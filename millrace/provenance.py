"""Which code and which packages a run was made with: part of its identity and of its lineage."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from millrace.storage import digest_bytes

_ROOT = Path(__file__).resolve().parent.parent
# What changes a trained model: the domain's and the trainer's code. Flows, tasks and docs do not.
_CODE = (
    "millrace/contract.py",
    "millrace/dataset.py",
    "millrace/encoding.py",
    "millrace/language_model.py",
    "millrace/package.py",
    "millrace/package_files.py",
    "millrace/text_package.py",
    "millrace/texts.py",
    "ray_jobs/stage/tokens.py",
    "ray_jobs/train",
)
# What changes a verdict beside that.
_EVALUATION_CODE = ("millrace/gate.py", "millrace/ngram.py", "millrace/statistics.py", "ray_jobs/evaluate")


@cache
def code_digest() -> str:
    """Digest of the code that turns staged data into a model."""
    return _digest(_CODE)


@cache
def evaluation_code_digest() -> str:
    """Digest of the code that judges a model."""
    return _digest(_EVALUATION_CODE)


@cache
def lock_digest() -> str:
    """Digest of the lock file; of the installed torch's version where the package runs without one."""
    lock = _ROOT / "requirements.lock"
    if lock.is_file():
        return digest_bytes(lock.read_bytes())
    from importlib.metadata import version

    return digest_bytes(f"torch=={version('torch')}".encode())


@cache
def commit() -> str:
    """The code's commit, with `+changes` when the working tree differs; `unknown` outside a checkout."""
    try:
        head = _git("rev-parse", "HEAD")
        return f"{head}+changes" if _git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _digest(parts: tuple[str, ...]) -> str:
    files = sorted(path for part in parts for path in _files(_ROOT / part))
    return digest_bytes(
        "\n".join(f"{path.relative_to(_ROOT)}:{digest_bytes(path.read_bytes())}" for path in files).encode()
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_ROOT, check=True, capture_output=True, text=True)  # noqa: S603, S607
    return done.stdout.strip()


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))
