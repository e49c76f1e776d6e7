"""Every hostile artifact is refused, with the reason, and none of them runs."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.artifacts import payloads
from benchmarks.reliability.artifacts.attack import Attack
from benchmarks.reliability.artifacts.files import file_attacks
from benchmarks.reliability.artifacts.store import store_attacks
from benchmarks.reliability.artifacts.world import OPENERS, Signer, World, watched
from millrace.errors import MillraceError, SignatureError

#: What opening a hostile artifact may cost.
MAX_SECONDS = 10.0
MAX_GROWTH_MIB = 1024

_WHOLE, _MARKER = "whole", "pwned"


@dataclass(frozen=True)
class Outcome:
    """What became of one attempt to have a hostile artifact opened."""

    attack: Attack
    signer: Signer
    error: BaseException | None
    parsed: tuple[str, ...]
    seconds: float
    ran: bool

    @property
    def flaw(self) -> str | None:
        """What is wrong with how it was refused, or None."""
        if self.ran:
            return "it ran"
        if self.error is None:
            return "it was opened"
        if not isinstance(self.error, MillraceError):
            return f"{type(self.error).__name__} escaped: {self.error}"
        expected = self.attack.expected(self.signer)
        if not any(reason in str(self.error) for reason in expected):
            return f"refused for another reason than {expected}: {self.error}"
        if self.parsed and (self.signer != "the trusted key" or isinstance(self.error, SignatureError)):
            return f"{', '.join(self.parsed)} saw it before its signature was checked"
        return None if self.seconds <= MAX_SECONDS else f"it took {self.seconds:.0f} s"


def attacks(root: Path) -> list[Attack]:
    """Every hostile artifact; a payload that runs leaves its mark in `root`."""
    return [*file_attacks(root / _MARKER), *store_attacks()]


def attempt(attack: Attack, signer: Signer, root: Path) -> Outcome:
    """Spoil a copy of the world `root`/whole as `attack` says, and open it as production does."""
    world = World(root / _WHOLE, root / _WHOLE).copy(root / "spoilt")
    marker = root / _MARKER
    try:
        attack.spoil(world, signer)
        error: BaseException | None = None
        started = time.perf_counter()
        with watched() as parsed:
            try:
                OPENERS[attack.opener](world)
            except Exception as raised:  # noqa: BLE001 - whatever escapes is what is looked for
                error = raised
        return Outcome(attack, signer, error, tuple(parsed), time.perf_counter() - started, marker.exists())
    finally:
        shutil.rmtree(world.root)
        marker.unlink(missing_ok=True)


def live(root: Path) -> list[str]:
    """Names of the payloads that run when they are opened as a careless loader does: that none of them is a dud."""
    marker = root / _MARKER
    made, found = payloads.pickles(marker), []
    for name, careless in payloads.openers().items():
        careless(made[name])
        if marker.exists():
            found.append(name)
            marker.unlink()
    return found


def measure() -> dict[str, Any]:
    """Try every hostile artifact with every signer; one is refused when all of its attempts are, for the right reason.

    Returns:
        Counts of `hostile_artifacts`, `refused` and `markers`, of `attempts`, `slowest_seconds`, `memory_growth_mib`,
        and the `flaws` found.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flaws: dict[str, list[str]] = defaultdict(list)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="millrace-hostile-") as folder:
        root = Path(folder)
        World.make(root / _WHOLE)
        names = set()
        for attack in attacks(root):
            names.add(attack.name)
            for signer in attack.signers:
                outcome = attempt(attack, signer, root)
                outcomes.append(outcome)
                if outcome.flaw is not None:
                    flaws[attack.name].append(f"signed by {signer}: {outcome.flaw}")
    return {
        "hostile_artifacts": len(names),
        "refused": len(names) - len(flaws),
        "markers": sum(outcome.ran for outcome in outcomes),
        "attempts": len(outcomes),
        "slowest_seconds": round(max(outcome.seconds for outcome in outcomes), 3),
        "memory_growth_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
        "flaws": dict(flaws),
    }
