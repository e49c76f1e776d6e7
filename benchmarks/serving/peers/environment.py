"""A peer's own environment: a virtual environment with pinned packages, made once and used until its pins change.

Torch, numpy and safetensors are the same for all: installed once, as this project's lock pins them, into a folder that
each environment's path ends with. So no server has a faster model, and none has its own gigabyte of it.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = Path(__file__).parent / "requirements"
CACHE = ROOT / "build" / "peers"

_SHARED = ("torch", "numpy", "safetensors")
_SECONDS = 1800
_DIGEST = "digest"


class PeerError(Exception):
    """This peer cannot be measured here; the message says why."""


def peer_python(
    name: str,
    cache: Path = CACHE,
    python: str = sys.executable,
    *,
    folder_of_pins: Path = REQUIREMENTS,
    shared: Path | None = None,
) -> Path:
    """The interpreter of peer `name`'s environment below `cache`, which is made when its pins are new.

    `shared` is the folder of the packages that all have alike; without, it is installed.

    Raises:
        PeerError: it cannot be installed.
    """
    shared = shared or _shared_packages(cache, python)
    requirements = (folder_of_pins / f"{name}.txt").read_text()
    folder, wanted = cache / name, digest(requirements, _version(python), str(shared))
    found = folder / "bin" / "python"
    if _is_made(folder, wanted):
        return found
    shutil.rmtree(folder, ignore_errors=True)
    _run([python, "-m", "venv", str(folder)], f"the environment of {name}")
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(f"{shared}\n")
    _install(str(found), name, "--no-deps", "-r", str(folder_of_pins / f"{name}.txt"))
    (folder / _DIGEST).write_text(wanted)
    return found


def digest(*parts: str) -> str:
    """What names an environment: it is another one when any of the parts is another text."""
    return hashlib.sha256(b"".join(hashlib.sha256(part.encode()).digest() for part in parts)).hexdigest()


def pins(lock: str, names: tuple[str, ...]) -> list[str]:
    """The lines of a lock file that pin `names`.

    Raises:
        ValueError: one is not pinned.
    """
    lines = {line.partition("==")[0]: line for line in lock.splitlines() if "==" in line and not line.startswith("#")}
    if absent := sorted(set(names) - set(lines)):
        raise ValueError(f"the lock does not pin {', '.join(absent)}")
    return [lines[name] for name in names]


def _shared_packages(cache: Path, python: str) -> Path:
    """The folder of the packages that all peers have alike."""
    lock = ROOT / "requirements.lock"
    wanted = pins(lock.read_text(), _SHARED)
    folder, named = cache / "shared", digest(*wanted, _version(python))
    if not _is_made(folder, named):
        shutil.rmtree(folder, ignore_errors=True)
        # The lock also pins what they need.
        _install(sys.executable, "torch", "--target", str(folder), "--constraint", str(lock), *wanted)
        (folder / _DIGEST).write_text(named)
    return folder


def _is_made(folder: Path, wanted: str) -> bool:
    mark = folder / _DIGEST
    return mark.exists() and mark.read_text() == wanted


def _version(python: str) -> str:
    """Major and minor: compiled packages are made for these."""
    command = [python, "-c", "import sys; print(sys.implementation.name, *sys.version_info[:2])"]
    return _run(command, python).strip()


def _install(python: str, name: str, *arguments: str) -> None:
    _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], name)


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(f"{what}: {error}") from error
    if done.returncode != 0:
        raise PeerError(f"{what}: {' '.join(command[1:4])} failed: {last_lines(done.stderr)}")
    return done.stdout


def last_lines(text: str, length: int = 900) -> str:
    """The end of a program's words, on one line."""
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-length:]
