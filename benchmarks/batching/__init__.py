"""The batcher against every fixed (size, wait) of a grid, on simulated arrivals: `measure` gives the shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

from benchmarks.batching.arrivals import PATTERNS
from benchmarks.batching.simulation import Goodput, Model, fixed, ours, play

#: Seconds: a batch, a row, what a request costs besides; and the latency target.
MODELS: dict[str, tuple[Model, float]] = {
    "table on a CPU": (Model(fixed=75e-6, each=0.4e-6, request=90e-6), 0.02),
    "network on a CPU": (Model(fixed=2e-3, each=1e-3, request=90e-6), 0.05),
    "network on a GPU": (Model(fixed=8e-3, each=0.1e-3, request=90e-6), 0.05),
}
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WAITS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02)
#: Mean load over what the model can do at the most; the patterns peak at up to twice that.
LOADS = (0.3, 0.5)
_SECONDS = 8.0


def measure(tell: Callable[[str], None], seed: int = 5) -> dict[str, Any]:
    """For each model, load and pattern: our goodput over that of the best fixed pair, which is found by trying all."""
    cases = list(_cases(tell, seed))
    return {
        "cases": cases,
        "worst_share_of_best_fixed": min(case["share_of_best_fixed"] for case in cases),
        "worst_by_pattern": {
            pattern: min(case["share_of_best_fixed"] for case in cases if case["pattern"] == pattern)
            for pattern in PATTERNS
        },
    }


def _cases(tell: Callable[[str], None], seed: int) -> Iterator[dict[str, Any]]:
    for (name, (model, target)), load, pattern in product(MODELS.items(), LOADS, PATTERNS):
        times = PATTERNS[pattern](load * model.most_rate(target), _SECONDS, seed)
        mine = play(times, target, ours(model, target), model.request)
        size, wait, best = max(
            (
                (size, wait, play(times, target, fixed(model, size, wait), model.request))
                for size, wait in product(SIZES, WAITS)
                if size > 1 or not wait
            ),
            key=lambda found: found[2].in_time,
        )
        share = round(mine.in_time / best.in_time, 4)
        tell(f"{name}, load {load:g}, {pattern}: {share:.3f} of the best fixed pair ({size} rows, {wait * 1e3:g} ms)")
        yield {
            "model": name,
            "load": load,
            "pattern": pattern,
            "requests": mine.asked,
            "share_of_best_fixed": share,
            "ours": _told(mine),
            "best_fixed": {"rows": size, "wait_ms": wait * 1e3, **_told(best)},
        }


def _told(goodput: Goodput) -> dict[str, float]:
    return {
        "in_time": goodput.in_time,
        "refused": goodput.refused,
        "p50_ms": round(goodput.quantile(0.5) * 1e3, 2),
        "p99_ms": round(goodput.quantile(0.99) * 1e3, 2),
    }
