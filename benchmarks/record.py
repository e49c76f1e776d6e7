"""What every benchmark writes beside its figures: the hardware, the date, the commit."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from millrace.provenance import commit
from millrace.storage import write_atomically

RESULTS = Path(__file__).parent / "results"


def hardware() -> dict[str, Any]:
    """This machine, as far as it matters to a figure."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def write(name: str, figures: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write `name`.json into `folder`; returns its path."""
    document = {"hardware": hardware(), "date": datetime.now(UTC).isoformat(), "commit": commit(), **figures}
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(document, indent=2).encode() + b"\n")
    return path


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
