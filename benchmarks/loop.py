"""`make bench-loop`: the whole loop on a year of flights from an empty state folder, and where its time goes.

Each step's seconds are what its flow took; what is between the steps (processes that start, events on their way) is
what remains of the whole.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.record import write
from infra.local.ports import free_ports

GOALS = {"seconds_to_first_prediction": 60.0, "seconds_total": 180.0}
_STEP = re.compile(r"^ *[\d.]+ s  (?P<subject>.{16}) (?P<message>.*?) \((?P<seconds>[\d.]+) s\)$")


def main() -> None:
    """Run the demo on free ports and a new state folder; print and write its figures."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        env = os.environ | _environment(Path(folder) / ".millrace")
        command = [sys.executable, "-m", "flows.cli"]
        try:
            done = subprocess.run(
                [*command, "demo", "flight_delays", "--json"], env=env, capture_output=True, text=True, check=False
            )
        finally:
            subprocess.run([*command, "down"], env=env, capture_output=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        sys.exit(done.returncode)
    answer = json.loads(done.stdout)
    steps = _steps(done.stderr)
    _show(answer, steps)
    path = write("loop", {"goals": GOALS, "steps_seconds": steps, **answer})
    Console().print(f"written to {path}")


def _environment(state: Path) -> dict[str, str]:
    prefect, mlflow, serve, ray = free_ports(4)
    return {
        "MILLRACE_STATE_DIR": str(state),
        "MILLRACE_PREFECT_URL": f"http://127.0.0.1:{prefect}",
        "MILLRACE_MLFLOW_URL": f"http://127.0.0.1:{mlflow}",
        "MILLRACE_SERVE_URL": f"http://127.0.0.1:{serve}",
        "MILLRACE_RAY_PORT": str(ray),
    }


def _steps(progress: str) -> dict[str, float]:
    """Seconds by step, from the progress that the demo printed."""
    seconds: dict[str, float] = defaultdict(float)
    for line in progress.splitlines():
        if (found := _STEP.match(line)) is not None:
            name = found["subject"].strip()
            seconds[f"start {name}" if name else found["message"]] += float(found["seconds"])
    return dict(seconds)


def _show(answer: dict[str, Any], steps: dict[str, float]) -> None:
    table = Table("step", "seconds", title="where the time goes", title_justify="left")
    for name, seconds in sorted(steps.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{seconds:.1f}")
    table.add_section()
    for name, goal in GOALS.items():
        table.add_row(name, f"{answer[name]:.1f} (goal: {goal:.0f})")
    Console().print(table)


if __name__ == "__main__":
    main()
