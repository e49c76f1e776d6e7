"""`make chaos`: schedules of faults, seeded: the same seed plays the same schedules again."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.reliability import real_schedules, schedules
from millrace import logs


def main() -> int:
    """Play the schedules; the exit status says whether any world differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000, help="schedules over doubles of what is outside")
    parser.add_argument("--real", type=int, default=100, help="schedules with real processes")
    chosen = parser.parse_args()
    # What the flows under test say of themselves would bury what differs.
    logs.configure("ERROR")
    differing: list[str] = []
    if chosen.count:
        differing += schedules.measure(chosen.count, chosen.seed, _tell)["differing"]
    if chosen.real:
        with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
            progress = Path(folder) / "real_schedules.jsonl"
            differing += real_schedules.measure(chosen.real, chosen.seed, _tell, progress)["real_differing"]
    _tell(f"{chosen.count} schedules over doubles, {chosen.real} with real processes: {len(differing)} differ")
    return 1 if differing else 0


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
