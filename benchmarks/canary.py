"""`make bench-canary`: whole canary rollouts, simulated, with the very code that decides in production.

Requests come one by one and the router draws for each which version answers it. What the arms share (slow drifts,
bursts that last several polls) is drawn once for both. Every rollout goes through all steps with all four tests, is
looked at after each poll of a second, and ends by its own decision.

`--only PART` (several times) measures these and keeps the other parts' figures, each with its own date and commit.
"""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, write
from millrace.canary import CanaryTest, Observations, decide
from millrace.provenance import commit
from millrace.spec.rollout import RolloutSpec, StepSpec, ToleranceSpec

Floats = NDArray[np.float64]
Shape = Literal["lognormal", "bimodal"]
#: What happens to one arm without the other: each has its own, drawn alike.
Alone = Literal["nothing", "pauses", "weather", "failures"]

_NAME = "canary"
_SEED = 2013
#: A rollout that is suspected for so long is given up and counted as not decided.
_MOST_REQUESTS = 400_000

DEFAULT = RolloutSpec()
#: Nothing worse is tolerated: the hardest null.
STRICT = RolloutSpec(tolerances=ToleranceSpec(p95_ratio=1.0, prediction_share=0.0))


@dataclass(frozen=True)
class World:
    """What is asked, how the primary answers it, and what is wrong with the canary from step `harm_from` on."""

    failed_share: float = 0.005
    shape: Shape = "lognormal"
    requests_per_poll: float = 100.0
    more_failures: float = 0.0
    p95_ratio: float = 1.0
    prediction_shift: float = 0.0
    more_loss: float = 0.0
    harm_from: int = 0
    alone: Alone = "nothing"


@dataclass(frozen=True)
class Outcome:
    """How a rollout ended: by a roll back for `metric`, completed, or not decided."""

    move: str
    metric: str | None
    step: int
    num_canary: int
    num_primary: int


@dataclass
class Weather:
    """How slow answers are, over what they are at the median, by tenth of a second.

    A slow wander (autoregressive, 0.3 in the logarithm, half gone in 7 s), and bursts of 5 s on average that begin
    every 50 s on average and make answers three times as slow.
    """

    rng: np.random.Generator
    level: float = 0.0
    bursting: bool = False

    def tenths(self) -> Floats:
        """The next second, [10]."""
        self.level = 0.906 * self.level + 0.127 * self.rng.standard_normal()
        slow = np.full(10, np.exp(self.level))
        for tenth, draw in enumerate(self.rng.random(10)):
            self.bursting = bool(draw < (0.98 if self.bursting else 0.002))
            slow[tenth] *= 3.0 if self.bursting else 1.0
        return slow


@dataclass
class Pauses:
    """Pauses of one process alone: half a second on average, every 20 s on average; who asks then waits."""

    rng: np.random.Generator
    paused: bool = False

    def tenths(self) -> Floats:
        slow = np.ones(10)
        for tenth, draw in enumerate(self.rng.random(10)):
            self.paused = bool(draw < (0.8 if self.paused else 0.005))
            slow[tenth] = 10.0 if self.paused else 1.0
        return slow


@dataclass
class Traffic:
    """Polls of one rollout."""

    world: World
    rng: np.random.Generator
    drift: float = 0.0

    def __post_init__(self) -> None:
        self.weather = Weather(self.rng)
        self.own = [Weather(self.rng) if self.world.alone == "weather" else Pauses(self.rng) for _ in range(2)]

    def poll(self, share: float, step: int) -> tuple[Observations, Observations]:
        """What canary and primary did in one second."""
        world, rng = self.world, self.rng
        number = rng.poisson(world.requests_per_poll)
        canary = rng.random(number) < share
        harmed = canary & (step >= world.harm_from)
        asked_at = rng.integers(0, 10, number)
        slow = self.weather.tenths()[asked_at] * np.where(harmed, world.p95_ratio, 1.0)
        failing = world.failed_share + harmed * world.more_failures
        if world.alone != "nothing":
            own = np.where(canary, *(each.tenths()[asked_at] for each in self.own))
            if world.alone == "failures":
                failing = np.where(own > 1, 0.1, failing)
            else:
                slow *= own
        latencies = _latencies(world.shape, number, rng) * slow
        failed = rng.random(number) < failing
        # What is asked drifts over minutes: the share of positives, and with it predictions and losses of both arms.
        self.drift = 0.99 * self.drift + 0.05 * rng.standard_normal()
        score = rng.standard_normal(number) + self.drift - 1.0
        positive = rng.random(number) < 1 / (1 + np.exp(-score))
        predictions = 1 / (1 + np.exp(-(score + harmed * world.prediction_shift)))
        losses = np.clip((predictions - positive) ** 2 + harmed * world.more_loss, 0, 1)

        def arm(chosen: NDArray[np.bool_]) -> Observations:
            answered = chosen & ~failed
            return Observations(
                requests=int(chosen.sum()),
                failures=int((chosen & failed).sum()),
                latencies_ms=latencies[answered],
                predictions=predictions[answered],
                losses=losses[answered],
            )

        return arm(canary), arm(~canary)


def _latencies(shape: Shape, number: int, rng: np.random.Generator) -> Floats:
    """Milliseconds: around 20 with a long tail, or mostly 10 and one in ten around 100 (a cache that misses)."""
    if shape == "lognormal":
        return rng.lognormal(np.log(20), 0.5, number)
    missed = rng.random(number) < 0.1
    return np.where(missed, rng.lognormal(np.log(100), 0.2, number), rng.lognormal(np.log(10), 0.3, number))


def rollout(spec: RolloutSpec, world: World, seed: Sequence[int]) -> Outcome:
    """One whole rollout."""
    traffic = Traffic(world, np.random.default_rng(list(seed)))
    test, seconds, num_canary, num_primary = CanaryTest(spec), 0.0, 0, 0
    while num_canary + num_primary < _MOST_REQUESTS:
        canary, primary = traffic.poll(spec.steps[test.step].share, test.step)
        num_canary, num_primary = num_canary + canary.requests, num_primary + primary.requests
        seconds += 1
        test.update(canary, primary)
        decision = decide(spec, test, seconds)
        if decision.move == "advance":
            test.start_step()
            seconds = 0.0
        elif decision.move != "hold":
            metric = test.verdict().metric if decision.move == "roll back" else None
            return Outcome(decision.move, metric, test.step, num_canary, num_primary)
    return Outcome("undecided", None, test.step, num_canary, num_primary)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Shares of the outcomes; requests until a roll back, and of all rollouts."""
    back = [each for each in outcomes if each.move == "roll back"]
    steps = Counter(each.step for each in back)
    return {
        "rollouts": len(outcomes),
        "rolled_back": len(back),
        "rolled_back_share": len(back) / len(outcomes),
        "undecided": sum(each.move == "undecided" for each in outcomes),
        "rolled_back_for": dict(Counter(str(each.metric) for each in back)),
        "rolled_back_in_step": {str(step): steps[step] for step in sorted(steps)},
        "canary_requests_to_roll_back": _quantiles([each.num_canary for each in back]),
        "primary_requests_to_roll_back": _quantiles([each.num_primary for each in back]),
        "requests": _quantiles([each.num_canary + each.num_primary for each in outcomes]),
    }


def _quantiles(numbers: Sequence[int]) -> dict[str, int] | None:
    return {"p50": int(np.median(numbers)), "p90": int(np.quantile(numbers, 0.9))} if numbers else None


def many(spec: RolloutSpec, world: World, count: int) -> dict[str, Any]:
    """`count` rollouts, none of which shares its draws with another or with one of another world."""
    own = zlib.crc32(repr(world).encode())
    return summary([rollout(spec, world, (_SEED, own, number)) for number in range(count)])


# The parts. What a rollout costs here is 0.1 to 0.2 s.

PLUS_ONE_POINT, PLUS_FIFTH = World(more_failures=0.01), World(p95_ratio=1.2)
NULL_FAILED_SHARES: tuple[float, ...] = (0.001, 0.005, 0.02)
NULL_SHAPES: tuple[Shape, ...] = ("lognormal", "bimodal")
NULL_ROLLOUTS = 334
LENGTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
MORE_FAILURES, P95_RATIOS = (0.005, 0.01, 0.02, 0.03, 0.05), (1.1, 1.2, 1.3, 1.5, 2.0)


def null(failed_share: float, shape: Shape) -> dict[str, Any]:
    """The canary is the primary, and nothing worse is tolerated."""
    return many(STRICT, World(failed_share=failed_share, shape=shape), NULL_ROLLOUTS)


def tolerated() -> dict[str, Any]:
    """The canary is as much slower as is tolerated."""
    return many(DEFAULT, World(p95_ratio=DEFAULT.tolerances.p95_ratio), 200)


def alone(what: Alone) -> dict[str, Any]:
    """The canary is no worse, but each arm has pauses, bursts or failures of its own."""
    return many(STRICT, World(alone=what), 250)


def power() -> dict[str, Any]:
    """What is worse from the first step on, and what is worse in the last one only."""
    worlds = {
        "errors +1 point": PLUS_ONE_POINT,
        "p95 +20 %, lognormal": PLUS_FIFTH,
        "p95 +20 %, bimodal": replace(PLUS_FIFTH, shape="bimodal"),
    }
    return {name: many(DEFAULT, world, 200) for name, world in worlds.items()}


def late() -> dict[str, Any]:
    """The same harm, in the last step only."""
    last = len(DEFAULT.steps) - 1
    return {
        "errors +1 point": many(DEFAULT, replace(PLUS_ONE_POINT, harm_from=last), 150),
        "p95 +20 %": many(DEFAULT, replace(PLUS_FIFTH, harm_from=last), 150),
    }


def others() -> dict[str, Any]:
    """Predictions that are shifted, and losses that are larger."""
    worlds = {
        **{f"predictions, score {shift:+g}": World(prediction_shift=shift) for shift in (0.25, 0.5, 1.0)},
        **{f"loss {more:+g}": World(more_loss=more) for more in (0.01, 0.02)},
    }
    return {name: many(DEFAULT, world, 80) for name, world in worlds.items()}


def requests_needed() -> dict[str, Any]:
    """Requests of each arm until a roll back, at a share that does not change."""
    found = {}
    for share in (0.05, 0.25, 0.5):
        spec = RolloutSpec(steps=[StepSpec(share=share, min_requests=_MOST_REQUESTS)])
        for name, world in (("errors +1 point", PLUS_ONE_POINT), ("p95 +20 %", PLUS_FIFTH)):
            found[f"{name}, share {share:g}"] = many(spec, world, 100)
    return found


def detectable(length: float) -> dict[str, Any]:
    """Share of rollouts of `length` times the default's requests that find a harm; as many polls, with fewer requests.

    Traffic is scaled with the length, so that each takes the six to seven minutes of the default at 100 requests/s.
    """
    steps = [
        step.model_copy(update={"min_requests": max(1, round(step.min_requests * length))}) for step in DEFAULT.steps
    ]
    spec = DEFAULT.model_copy(update={"steps": steps})
    worlds = {
        **{f"errors {100 * more:+g} points": World(more_failures=more) for more in MORE_FAILURES},
        **{f"p95 {100 * (ratio - 1):+.0f} %": World(p95_ratio=ratio) for ratio in P95_RATIOS},
    }
    rate = 100 * length
    return {name: many(spec, replace(world, requests_per_poll=rate), 60) for name, world in worlds.items()}


def peeking() -> dict[str, Any]:
    """What looking costs without this: a z-test of two error rates at the same level, at each look of null rollouts."""
    limit, shares = NormalDist().inv_cdf(1 - DEFAULT.alpha_per_test), [step.share for step in DEFAULT.steps]
    back, count = 0, 500
    for number in range(count):
        rng = np.random.default_rng([_SEED, number])
        share = np.repeat(shares, [60, 60, 120, 150])
        asked = rng.binomial(100, share)
        failed, theirs = np.cumsum(rng.binomial(asked, 0.005)), np.cumsum(rng.binomial(100 - asked, 0.005))
        ours_n, theirs_n = np.cumsum(asked), np.cumsum(100 - asked)
        pooled = (failed + theirs) / (ours_n + theirs_n)
        deviation = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(ours_n, 1) + 1 / np.maximum(theirs_n, 1)))
        difference = failed / np.maximum(ours_n, 1) - theirs / np.maximum(theirs_n, 1)
        # From 500 requests of the canary on: before, a normal approximation is no test at all.
        back += bool(((difference > limit * deviation) & (ours_n >= 500)).any())
    return {"rollouts": count, "rolled_back": back, "rolled_back_share": back / count}


def cost() -> dict[str, Any]:
    """Processor time of one update with 1,000 new observations and of one verdict, and the size of the state."""
    traffic = Traffic(World(requests_per_poll=1000), np.random.default_rng(_SEED))
    test, updates, verdicts = CanaryTest(DEFAULT), [], []
    for _ in range(300):
        canary, primary = traffic.poll(0.25, 0)
        began = time.process_time()
        test.update(canary, primary)
        updated = time.process_time()
        test.verdict()
        updates.append(updated - began)
        verdicts.append(time.process_time() - updated)
    return {
        "update_mean_ms": 1000 * float(np.mean(updates)),
        "update_p99_ms": 1000 * float(np.quantile(updates, 0.99)),
        "verdict_mean_ms": 1000 * float(np.mean(verdicts)),
        "state_bytes": len(json.dumps(test.state())),
    }


#: The parts in the order in which they are measured.
PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        f"null {shape} {failed_share:g}": partial(null, failed_share, shape)
        for shape in NULL_SHAPES
        for failed_share in NULL_FAILED_SHARES
    },
    "tolerated": tolerated,
    **{f"alone {what}": partial(alone, what) for what in ("pauses", "weather", "failures")},
    "power": power,
    "late": late,
    "others": others,
    "requests needed": requests_needed,
    **{f"detectable x{length:g}": partial(detectable, length) for length in LENGTHS},
    "peeking": peeking,
    "cost": cost,
}

#: Figure -> goal, as text for the table and as a test.
GOALS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "null_rollouts": ("2,000", lambda value: value >= 2000),
    "false_rollback_share": ("at most 0.01", lambda value: value <= 0.01),
    "power_errors": ("at least 0.95", lambda value: value >= 0.95),
    "power_latency": ("at least 0.95", lambda value: value >= 0.95),
    "update_mean_ms": ("under 1", lambda value: value < 1),
}


def measure(only: Sequence[str] | None = None, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """The figures of the parts named, or of all."""
    figures = {}
    for name in only or PARTS:
        tell(name)
        figures[name] = PARTS[name]() | {"date": datetime.now(UTC).isoformat(), "commit": commit()}
    return figures


def headline(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that have goals, of the parts that are there."""
    found: dict[str, Any] = {}
    if nulls := [figures for name, figures in parts.items() if name.startswith("null ")]:
        found["null_rollouts"] = sum(figures["rollouts"] for figures in nulls)
        found["false_rollback_share"] = sum(figures["rolled_back"] for figures in nulls) / found["null_rollouts"]
    if "power" in parts:
        shares = {name: figures["rolled_back_share"] for name, figures in parts["power"].items() if "p95" in name}
        found["power_errors"] = parts["power"]["errors +1 point"]["rolled_back_share"]
        found["power_latency"] = min(shares.values())
    if "cost" in parts:
        found["update_mean_ms"] = parts["cost"]["update_mean_ms"]
    lengths = {name.split()[1]: figures for name, figures in parts.items() if name.startswith("detectable ")}
    found["found_in_95_percent"] = {length: _least_found(figures) for length, figures in lengths.items()}
    return found


def _least_found(figures: Mapping[str, Any]) -> dict[str, str | None]:
    """Of errors and of p95, the least harm from which on 95 % of the rollouts went back; None: none of those tried."""
    least: dict[str, str | None] = {}
    for metric in ("errors", "p95"):
        harms = [name for name in figures if name.startswith(f"{metric} ")]
        missed = [place for place, name in enumerate(harms) if figures[name]["rolled_back_share"] < 0.95]
        place = missed[-1] + 1 if missed else 0
        least[metric] = harms[place].removeprefix(f"{metric} ") if place < len(harms) else None
    return least


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Measure only this part: {', '.join(PARTS)}.")] = None,
) -> None:
    """Simulate whole rollouts of good and bad canaries."""
    if unknown := set(only or ()) - set(PARTS):
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    console = Console(stderr=True)
    path = RESULTS / f"{_NAME}.json"
    known = json.loads(path.read_bytes())["parts"] if path.exists() else {}
    parts: dict[str, Any] = dict(known)
    for name in only or PARTS:
        # After each part: minutes of simulation are not lost with the last of them.
        parts |= measure([name], lambda name: console.print(name, highlight=False))
        write(_NAME, {"goals": {name: goal for name, (goal, _) in GOALS.items()}, **headline(parts), "parts": parts})
    figures = headline(parts)
    table = Table("figure", "measured", "goal", "", title="canary", title_justify="left")
    for name, (goal, holds) in GOALS.items():
        if name in figures:
            table.add_row(name, f"{figures[name]:.4g}", goal, "holds" if holds(figures[name]) else "MISSED")
    for length, least in figures["found_in_95_percent"].items():
        table.add_row(f"found in 95 % of rollouts {length}", f"errors {least['errors']}, p95 {least['p95']}", "", "")
    Console().print(table)
    Console().print(f"written to {path}")


if __name__ == "__main__":
    typer.run(main)
