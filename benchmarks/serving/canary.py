"""What `make bench-canary` found: how often good versions are sent back, and bad ones found. Nothing is measured."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.parts import Tell
from benchmarks.record import RESULTS
from benchmarks.serving.options import Options

_ABOUT = ("date", "commit", "goals")


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """Its single figures, and when and of what they were taken.

    Raises:
        FileNotFoundError: it was never measured.
    """
    found = json.loads((RESULTS / "canary.json").read_bytes())
    kept = {name: value for name, value in found.items() if name in _ABOUT or isinstance(value, int | float)}
    tell(f"of {found['date']}; measured anew by `make bench-canary`")
    return {"canary": kept}
