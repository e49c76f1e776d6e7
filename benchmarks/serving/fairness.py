"""One customer at ten times its limit, beside others that keep to theirs: what it costs the others."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.parts import Tell
from benchmarks.serving.calls import open_loop_plan, start_client
from benchmarks.serving.figures import spread
from benchmarks.serving.fixture import make_fixture
from benchmarks.serving.millrace_server import Server, serving_millrace
from benchmarks.serving.options import Options
from benchmarks.serving.target import Target
from millrace.keys import KeyFile
from millrace.limits import Limit

REPLICAS = 2
OTHERS = 4
TIMES = 10

_SEED = 2013
_GREEDY = "greedy"
#: The others may ask twice as often as they do: how they come at random must not be what refuses them.
_ROOM = 2
#: What HAProxy answers by itself. When one in ten asks for a prediction and nine ask there, the greedy one costs the
#: others its client, and what it may have answered.
_ELSEWHERE = "/-/routes"
#: Longer than replicas take to see another limit.
_SEEN_SECONDS = 0.5


def measure(options: Options, tell: Tell) -> dict[str, Any]:
    """Rounds of four loads by turns: the others alone; beside one that asks as often as the greedy one, but for no more
    predictions than its limit, and else for what HAProxy answers by itself; beside the greedy one; beside it when it
    has no limit.

    `p99_ratio` is of the others' p99 beside the greedy one and alone, round by round; `goodput_share` is the share of
    the others' requests that were answered beside it, of that share alone. The greedy one's client has the same cores:
    `service_p99_ratio` is of the p99 beside the greedy one and beside that client when it asks elsewhere.
    """
    rate, seconds = options.load_rate / OTHERS, 4 * options.seconds
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("alone", "elsewhere", "beside", "unlimited")}
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        serving_millrace(make_fixture(Path(folder)), replicas=REPLICAS) as server,
    ):
        server.target.check()
        targets = _customers(server, rate)
        greedy = targets.pop(_GREEDY)
        others = list(targets.values())
        elsewhere = [greedy, *[replace(greedy, path=_ELSEWHERE)] * (TIMES - 1)]
        loads: list[tuple[str, list[Target], Limit | None]] = [
            ("alone", [], None),
            ("elsewhere", elsewhere, None),
            ("beside", [greedy], Limit.of(rate)),
            ("unlimited", [greedy], None),
        ]
        _load(others, [], rate, options.seconds)  # warm
        for number in range(options.rounds):
            for name, asked, limit in loads:
                KeyFile(server.settings.keys_path).limit(_GREEDY, limit)
                time.sleep(_SEEN_SECONDS)
                figures = _load(others, asked, rate, seconds)
                found[name].append(figures)
                tell(f"round {number + 1}, {name}: {_told(figures)}")
    return {"fairness": {"customers": OTHERS, "rate": rate, "times": TIMES, **summary(found)}}


def summary(found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The figures of the loads by name, each a list by round of what `_load` gives."""
    alone = found["alone"]
    p99s = {name: [each["others"]["p99_ms"] for each in rounds] for name, rounds in found.items()}
    told: dict[str, Any] = {f"{name}_p99_ms": spread(each) for name, each in p99s.items()}
    told["service_p99_ratio"] = spread(_ratios(p99s["beside"], p99s["elsewhere"]))["median"]
    for name, prefix in (("beside", ""), ("unlimited", "unlimited_")):
        rounds = found[name]
        ratios = _ratios(p99s[name], p99s["alone"])
        told |= {
            f"{prefix}p99_ratio": spread(ratios)["median"],
            f"{prefix}p99_ratios": spread(ratios),
            f"{prefix}goodput_share": _goodput(rounds) / _goodput(alone),
            f"{prefix}greedy_answered_per_second": spread([_rate(each["greedy"]) for each in rounds]),
            f"{prefix}greedy_problems": rounds[-1]["greedy"]["problems"],
        }
    return told


def _customers(server: Server, rate: float) -> dict[str, Target]:
    keys = KeyFile(server.settings.keys_path)
    found = {}
    for name in [_GREEDY, *(f"customer-{number}" for number in range(OTHERS))]:
        _, key = keys.create(name)
        found[name] = replace(server.target, headers={"authorization": f"Bearer {key}"})
        keys.limit(name, Limit.of(_ROOM * rate, max(1, round(_ROOM * rate))))
    return found


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [one / other for one, other in zip(above, below, strict=True)]


def _load(others: list[Target], greedy: list[Target], rate: float, seconds: float) -> dict[str, Any]:
    """The figures of the `others`, who ask in turn, and of the `greedy` one, where it is there."""
    with ExitStack() as stack:
        plan = open_loop_plan(OTHERS * rate, seconds, seed=_SEED)
        asked = {"others": stack.enter_context(start_client(others[0], plan, others[1:]))}
        if greedy:
            plan = open_loop_plan(TIMES * rate, seconds, seed=_SEED + 1)
            asked["greedy"] = stack.enter_context(start_client(greedy[0], plan, greedy[1:]))
        return {name: client.result() for name, client in asked.items()}


def _goodput(rounds: list[dict[str, Any]]) -> float:
    asked: int = sum(each["others"]["requests"] for each in rounds)
    failed: int = sum(each["others"]["failed"] for each in rounds)
    return (asked - failed) / asked


def _rate(figures: Mapping[str, Any]) -> float:
    return float((figures["requests"] - figures["failed"]) / figures["seconds"])


def _told(figures: Mapping[str, Any]) -> str:
    others = figures["others"]
    told = f"p99 of the others {others['p99_ms']:.1f} ms, {others['failed']} of {others['requests']} failed"
    return told if "greedy" not in figures else f"{told}; the greedy one {_rate(figures['greedy']):.0f} answers/s"
