"""`make bench-reliability`: measures each part in turn, prints a table and writes benchmarks/results/reliability.json.

`--only PART` (several times) measures these and keeps the other parts' figures, each with its own date and commit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.parts import Benchmark, Goal, Part, Tell
from benchmarks.record import RESULTS

_SEED = 2013


def _recovery(tell: Tell) -> dict[str, Any]:
    from benchmarks.reliability import recovery

    return recovery.measure(24, tell)


def _rerun(tell: Tell) -> dict[str, Any]:
    from benchmarks.reliability import recovery

    return recovery.measure_rerun(15, tell)


def _rollback(tell: Tell) -> dict[str, Any]:
    from benchmarks.reliability import rollback

    return rollback.measure(rollback.ROLLBACKS, rollback.THREADS, tell)


def _stack(_: Tell) -> dict[str, Any]:
    """What is measured on a stack that only runs: its listeners, and the way from an incident to a flow run."""
    from benchmarks.reliability import latency, listeners
    from tests.live import running_stack
    from tests.tiny import deploy_tiny

    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder, running_stack(Path(folder)) as settings:
        event_to_run = latency.measure(settings)
        deploy_tiny(settings, "doors")  # the replica of an application listens too
        return {"event_to_run": event_to_run, **listeners.measure(settings)}


def _artifacts(_: Tell) -> dict[str, Any]:
    from benchmarks.reliability import hostile

    return hostile.measure()


def _approvals(_: Tell) -> dict[str, Any]:
    from benchmarks.reliability import approvals

    return approvals.measure()


def _secrets(_: Tell) -> dict[str, Any]:
    from benchmarks.reliability import canaries

    return canaries.measure()


def _storm(_: Tell) -> dict[str, Any]:
    from benchmarks.reliability import storm

    return storm.measure(seed=_SEED)


def _baseline(_: Tell) -> dict[str, Any]:
    from benchmarks.reliability import baseline

    # A tenth of the storm, with as many kills: each of its events becomes a flow run, and shares are what is compared.
    return {"baseline": baseline.measure(incidents=1_000, seed=_SEED)}


def _schedules(tell: Tell) -> dict[str, Any]:
    from benchmarks.reliability import schedules

    return schedules.measure(1000, _SEED, tell)


def _real_schedules(tell: Tell) -> dict[str, Any]:
    from benchmarks.reliability import real_schedules

    return real_schedules.measure(102, _SEED, tell, RESULTS / "real_schedules.jsonl")


#: The parts in the order in which they are measured.
PARTS: dict[str, Part] = {
    "recovery": _recovery,
    "rerun": _rerun,
    "rollback": _rollback,
    "stack": _stack,
    "artifacts": _artifacts,
    "approvals": _approvals,
    "secrets": _secrets,
    "storm": _storm,
    "baseline": _baseline,
    "schedules": _schedules,
    "real_schedules": _real_schedules,
}

#: Figure -> goal, as text for the table and as a test.
GOALS: dict[str, Goal] = {
    "differences": ("0", lambda value: value == 0),
    "schedules": ("1,000", lambda value: value >= 1000),
    "real_schedules": ("100", lambda value: value >= 100),
    "real_differences": ("0", lambda value: value == 0),
    "incidents": ("10,000", lambda value: value >= 10_000),
    "lost": ("0", lambda value: value == 0),
    "double": ("0", lambda value: value == 0),
    "event_to_run.p50_seconds": ("under 1", lambda value: value < 1),
    "event_to_run.p99_seconds": ("under 3", lambda value: value < 3),
    "recovery.detect_p99_seconds": ("5", lambda value: value <= 5),
    "recovery.resume_p99_seconds": ("15", lambda value: value <= 15),
    "noop_rerun_seconds": ("2", lambda value: value <= 2),
    "rollback.p99_seconds": ("5", lambda value: value < 5),
    "rollback.failed": ("0", lambda value: value == 0),
    "rollback.mis_versioned": ("0", lambda value: value == 0),
    "hostile_artifacts": ("60", lambda value: value >= 60),
    "approval_attacks": ("any", lambda value: value > 0),
    "planted_secrets": ("1,000", lambda value: value >= 1000),
    "found_secrets": ("0", lambda value: value == 0),
    "unprotected_listeners": ("0", lambda value: value == 0),
}

#: Figure -> the figure that it must equal: of all that was tried, none got through.
ALL_OF = {"refused": "hostile_artifacts", "approval_refused": "approval_attacks"}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Measure only this part: {', '.join(PARTS)}.")] = None,
) -> None:
    """Measure what is lost, done twice or let in."""
    Benchmark("reliability", PARTS, GOALS, ALL_OF).run(only)


if __name__ == "__main__":
    typer.run(main)
