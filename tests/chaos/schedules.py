"""Which faults to try: every point that a part of the pipeline's life meets, before and after, and pairs of them."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.faults import Fault
from tests.chaos.machine import PARTS, describe, play
from tests.chaos.world import World, differences


@dataclass(frozen=True, slots=True)
class Case:
    """One schedule: a part of the pipeline's life, and what strikes in it; `seed` decides what is left to chance."""

    part: str
    faults: tuple[Fault, ...]
    seed: int

    def __str__(self) -> str:
        return f"{self.part}, seed {self.seed}: {describe(self.faults)}"


@dataclass(frozen=True)
class Reference:
    """The world that nothing happened to: before and after each part, and the points that it met."""

    before: dict[str, World]
    outcome: dict[str, dict[str, Any]]
    met: dict[str, list[str]]

    @classmethod
    def make(cls, folder: Path) -> Reference:
        """Play each part without faults."""
        before, outcome, met = {}, {}, {}
        world = World(folder / "start").create()
        for part in PARTS:
            before[part] = world
            world = world.copy(folder / f"after-{part}")
            schedule = play(world, part)
            # A beat comes when a second is over, wherever the run is then: it has no place in an order.
            outcome[part], met[part] = world.outcome(), [hit for hit in schedule.hits if "heartbeat.beat" not in hit]
            for path in schedule.folder.iterdir():
                path.unlink()
        return cls(before, outcome, met)

    def points(self) -> set[str]:
        """The names of all points that are met."""
        return {hit.split()[0] for hits in self.met.values() for hit in hits}


def single_faults(reference: Reference) -> list[Case]:
    """Each meeting of each point: killed there, and failed there."""
    cases: list[Case] = []
    for part, hits in reference.met.items():
        for (point, moment), count in Counter(tuple(hit.split()) for hit in hits).items():
            for nth in range(1, count + 1):
                for action in ("kill", "fail"):
                    cases.append(Case(part, (Fault(point, moment, action, nth),), seed=len(cases)))  # type: ignore[arg-type]
    return cases


def zombies(reference: Reference) -> list[Case]:
    """Each meeting of each point: frozen there until a later life of the run has ended, then woken."""
    return [
        Case(part, (Fault(point, moment, "hold", nth),), seed=1_000_000 + number)  # type: ignore[arg-type]
        for part, hits in reference.met.items()
        for number, ((point, moment), count) in enumerate(Counter(tuple(hit.split()) for hit in hits).items())
        for nth in range(1, count + 1)
    ]


def double_faults(reference: Reference, count: int, seed: int) -> Iterator[Case]:
    """Pairs and triples of faults, drawn by chance."""
    chance = random.Random(seed)
    parts = list(reference.met)
    for number in range(count):
        part = chance.choice(parts)
        faults = []
        for _ in range(chance.choice((2, 2, 3))):
            point, moment = chance.choice(reference.met[part]).split()
            nth = chance.randint(1, reference.met[part].count(f"{point} {moment}") + 1)
            faults.append(Fault(point, moment, chance.choice(("kill", "fail")), nth))  # type: ignore[arg-type]
        yield Case(part, tuple(faults), seed=seed * 100_000 + number)


def run_case(reference: Reference, case: Case) -> list[str]:
    """Play one schedule on a copy of the world; what differs at the end from the world that nothing happened to."""
    with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
        world = reference.before[case.part].copy(Path(folder) / "world")
        try:
            play(world, case.part, case.faults, seed=case.seed)
            found = differences(reference.outcome[case.part], world.outcome())
        except AssertionError as error:
            found = [f"never at rest or torn: {error}"]
        return [*found, *(path.read_text() for path in world.folder.glob("failed-*"))]
