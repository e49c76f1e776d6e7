"""How much of everything is measured. The defaults are what the goals speak of; anything less is a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """Rounds and seconds of the closed loop; rate and seconds of the open one; how often things die and change."""

    rounds: int = 5
    seconds: float = 5.0
    rate: float = 500.0
    open_loop_seconds: float = 300.0
    #: Requests a second while replicas are killed or replaced: starting one takes most of a small machine.
    load_rate: float = 200.0
    kills: int = 20
    redeploys: int = 10


def rehearsal(rounds: int, seconds: float) -> Options:
    """A short look at whether everything works. Its figures mean nothing."""
    return Options(rounds, seconds, open_loop_seconds=5 * seconds, kills=min(rounds, 20), redeploys=min(2 * rounds, 10))
