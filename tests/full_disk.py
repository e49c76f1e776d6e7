"""A process that can make files and write nothing into them, as on a disk that is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
_ROOT = Path(__file__).resolve().parents[1]


def run_on_full_disk(code: str, *arguments: str) -> str:
    """Run `code`; what it said at its end, on stderr."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", _FULL + code, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return done.stderr
