"""`millrace rollout`: where a new version's rollout stands; have it go on, or take the version off."""

from __future__ import annotations

import getpass
import time
from contextlib import closing
from typing import Any

from flows.roll_back import see_through
from millrace import rollouts
from millrace.canary.watch import CanaryWatch
from millrace.errors import ConflictError
from millrace.inference_log import inference_folder
from millrace.ledger import Entry, Ledger
from millrace.rollouts import Rollout
from millrace.settings import Settings
from millrace.spec.load import load_spec, pipeline_dir, require_served
from millrace.traffic_rules import TrafficChange, VersionShare
from tasks.rollback_requests import new_id
from tasks.traffic_requests import TrafficRequest


def show_rollout(settings: Settings, name: str) -> dict[str, Any]:
    """The rollout that goes on, or the last one: its steps, counts, tests and end. What its flow sees just now is read
    from the inference log, as the flow does.

    Raises:
        UnknownNameError: there is no such pipeline.
        ConflictError: no rollout has begun.
    """
    label = load_spec(pipeline_dir(name, settings.pipelines)).table.label
    rollout = rollouts.find(Ledger(settings.ledger), name)
    steps = [_step(rollout, number) for number in range(len(rollout.spec.steps))]
    current = max(rollout.shares, default=None)
    verdict: dict[str, Any] | None = None
    if rollout.ended is None and current is not None and current not in rollout.decisions:
        with closing(CanaryWatch(rollout, label, inference_folder(settings, name))) as watch:
            watch.enter(rollout, current)
            decision = watch.look(time.time())
            verdict = watch.test.verdict().as_dict()
        steps[current] |= {"requests": verdict["evidence"]["requests_in_step"], "reason": decision.reason}
    elif rollout.decisions:
        verdict = dict(rollout.decisions[max(rollout.decisions)].detail["verdict"])
    ended = rollout.ended
    return {
        "pipeline": name,
        "version": rollout.version,
        "champion": rollout.champion,
        "entry": rollout.id,
        "flow_run": rollout.shares[current].actor if current is not None else None,
        "begun_at": rollout.begun.at.isoformat(),
        "outcome": rollout.outcome or "going on",
        "ended_at": None if ended is None else ended.at.isoformat(),
        "ended_by": None if ended is None else ended.actor,
        "reasons": [] if ended is None else list(ended.detail["reasons"]),
        "steps": steps,
        "tests": {} if verdict is None else dict(verdict["evidence"]["tests"]),
        "verdict": verdict,
    }


def resume_rollout(settings: Settings, name: str) -> dict[str, Any]:
    """Have the rollout go on whose flow was cancelled or has failed; as `show_rollout`, with the flow run.

    Raises:
        ConflictError: none goes on.
    """
    from tasks.prefect_api import flow_state, retry
    from tasks.rollout_watch import start_rollout

    require_served(name, settings.pipelines)
    begun = _going_on(Ledger(settings.ledger), name)
    run = start_rollout(settings, begun)
    if flow_state(settings, run).is_final:
        retry(settings, run)
    return show_rollout(settings, name) | {"flow_run": run}


def stop_rollout(settings: Settings, name: str) -> dict[str, Any]:
    """Take the canary off: all requests go to the champion again, and the rollout has ended.

    Raises:
        ConflictError: none goes on.
        MillraceError: the traffic cannot be changed; the rollout has ended, and whoever can changes it later.
    """
    require_served(name, settings.pipelines)
    ledger, person = Ledger(settings.ledger), f"person:{getpass.getuser()}"
    rollout = Rollout(_going_on(ledger, name))
    off = TrafficChange(canary=VersionShare(rollout.version, 0.0))
    request = TrafficRequest(new_id(what="traffic"), name, person, off)
    # As one: a rollout that is stopped, and a canary that nobody watches, must not come apart.
    ledger.append(rollouts.ending(rollout, "stopped", person, ["stopped"]), request.fact())

    def perform() -> dict[str, Any]:
        from tasks.traffic import perform

        return perform(request)

    outcome = see_through(ledger, request, perform, "taking the canary off")
    return show_rollout(settings, name) | {"serving": outcome["version"], "seconds": outcome["seconds"]}


def _going_on(ledger: Ledger, name: str) -> Entry:
    found = rollouts.going_on(ledger, name)
    if not found:
        raise ConflictError(
            f"no rollout of '{name}' goes on", next=f"look at the last one with `millrace rollout {name}`"
        )
    return found[-1]


def _step(rollout: Rollout, number: int) -> dict[str, Any]:
    step, given, decided = rollout.spec.steps[number], rollout.shares.get(number), rollout.decisions.get(number)
    return {
        "step": number + 1,
        "share": step.share,
        "min_requests": step.min_requests,
        "min_seconds": step.min_seconds,
        "since": None if given is None else given.at.isoformat(),
        "requests": None if decided is None else decided.detail["verdict"]["evidence"]["requests_in_step"],
        "decided": None if decided is None else decided.detail["move"],
        "decided_at": None if decided is None else decided.at.isoformat(),
        "reason": None if decided is None else decided.detail["reason"],
    }
