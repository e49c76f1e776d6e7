"""How fast rows become shards, digests and a manifest included, beside MosaicML streaming's MDS writer."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.training.local_data import COLUMN, NUM_BYTES, PER_SHARD, rows
from benchmarks.training.local_peers import peer
from millrace.shards import ShardWriter, publish
from millrace.storage import ObjectStore

_REPEATS = 3


def measure(tell: Tell) -> dict[str, Any]:
    """Megabytes a second of both, the best of three each, and their quotient."""
    ours, theirs = 0.0, 0.0
    for _ in range(_REPEATS):
        with tempfile.TemporaryDirectory(prefix="millrace-convert-", dir="/var/tmp") as folder:
            ours = max(ours, NUM_BYTES / 1e6 / convert(Path(folder)))
        with tempfile.TemporaryDirectory(prefix="millrace-convert-", dir="/var/tmp") as folder:
            theirs = max(theirs, NUM_BYTES / 1e6 / peer("write_mds", folder)["seconds"])
    tell(f"conversion: {ours:.0f} MB/s, MDS {theirs:.0f} MB/s")
    return {
        "conversion": {"megabytes_per_second": ours, "mds_megabytes_per_second": theirs},
        "conversion_vs_mds": ours / theirs,
    }


def convert(folder: Path) -> float:
    """Seconds from arrays in memory to a committed set in `folder`."""
    content = rows()
    began = time.perf_counter()
    with ShardWriter(folder / "shards", [COLUMN], samples_per_shard=PER_SHARD) as writer:
        writer.write({"x": content})
    publish(ObjectStore(str(folder / "objects")), "set", writer.files)
    return time.perf_counter() - began
