"""Runs a part of `peer_programs.py` in the peers' own environment, with this project's torch and numpy."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks.serving.peers.environment import ROOT, PeerError, last_lines, peer_python

_SECONDS = 600


def peer(part: str, *arguments: str) -> dict[str, Any]:
    """What the part found.

    Raises:
        PeerError: it cannot be run.
    """
    python = peer_python(
        "loaders",
        folder_of_pins=Path(__file__).parent / "requirements",
        shared=Path(sysconfig.get_paths()["purelib"]),
    )
    command = [str(python), "-W", "ignore", "-m", "benchmarks.training.peer_programs", part, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode != 0:
        raise PeerError(f"{part}: {last_lines(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
