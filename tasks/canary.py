"""The steps of a rollout: give the canary a share, watch what it does with it, and let it serve or take it off.

Each finds what an earlier life of its flow run has done. The serving slot is held around each change, not between: a
rollback, a restore or a promotion goes ahead at any time, and ends the rollout.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from millrace import rollouts
from millrace.canary import RolloutDecision
from millrace.canary.watch import CanaryWatch
from millrace.errors import DataError, DigestError, FencedError, MillraceError
from millrace.inference_log import inference_folder
from millrace.ledger import Fact
from millrace.logs import get_logger
from millrace.rollouts import Rollout
from millrace.traffic_rules import TrafficChange, VersionShare
from ray_jobs.cluster import connect
from ray_jobs.serve.deploy import serving
from tasks.canary_news import CanaryNews
from tasks.carry_out import is_passing
from tasks.registry import Version
from tasks.rollout import REFUSED, approved_version, let_serve
from tasks.run import Run, step
from tasks.run_kinds import PROMOTED
from tasks.slots import holding
from tasks.traffic import change_traffic

LOOK_SECONDS = 0.5


class Conductor:
    """What one life of a rollout's flow run has in hand. `pause` waits for so many seconds."""

    def __init__(
        self,
        run: Run,
        rollout: Rollout,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rollout = rollout
        self.watch = CanaryWatch(
            rollout, run.pipeline.spec.table.label, inference_folder(run.settings, run.pipeline.name)
        )
        self.news = CanaryNews(run.pipeline.name)
        self.clock, self.pause = clock, pause

    @property
    def steps(self) -> range:
        """The numbers of its steps."""
        return range(len(self.rollout.spec.steps))

    def close(self) -> None:
        self.news.close()
        self.watch.close()


@contextmanager
def conducting(run: Run, version: str | None = None) -> Iterator[Conductor]:
    """The rollout of `version`, or the one that began last.

    Raises:
        ConflictError: there never was one.
    """
    with closing(Conductor(run, rollouts.find(run.ledger, run.pipeline.name, version))) as conductor:
        yield conductor


@step
def give_share(run: Run, conductor: Conductor, number: int) -> None:
    """Let the canary answer its share of step `number`; nothing is done when somebody else has decided meanwhile.

    Raises:
        MillraceError: it cannot answer: its package is damaged, or it takes other requests than the champion.
    """
    rollout = rollouts.again(run.ledger, conductor.rollout)
    if number in rollout.shares or rollout.ended is not None:
        if rollout.ended is None and number == max(rollout.shares):
            get_ready(run)
        return
    canary = VersionShare(rollout.version, rollout.spec.steps[number].share)
    change = TrafficChange(canary=canary)
    if number == 0:
        # Nobody stays with another version, as only independent draws can be compared.
        change = TrafficChange(only=rollout.champion, canary=canary)
    with holding(run, "serving") as held:
        if rollouts.overtaken(run.ledger, rollout) is not None:
            return
        try:
            deployed = change_traffic(held, change, run.id, once=rollout.once(number), only_while=rollout.serving)
        except FencedError:
            raise
        except MillraceError as error:
            if number == 0 and not is_passing(error):
                run.ledger.append(rollouts.ending(rollout, "failed", run.id, [str(error)]), token=held.proof)
            raise
    told = {"version": rollout.version, "step": number + 1, "of": len(rollout.spec.steps), "share": canary.share}
    get_logger().info("the canary has a new share", **told, seconds=round(deployed.seconds, 2))


def get_ready(run: Run) -> None:
    """Do ahead what is slow in a process that has not yet changed what serves: a bad canary must not wait for it."""
    connect(run.settings)
    importlib.import_module("ray_jobs.serve.app")
    serving(run.settings, run.pipeline.name)


@step
def watch_step(run: Run, conductor: Conductor, number: int) -> RolloutDecision:
    """Watch the canary at its share until there is something to decide, and record that.

    Returns:
        The decision; `hold` when somebody else has decided meanwhile, with the reason.
    """
    ledger, watch = run.ledger, conductor.watch
    rollout = rollouts.again(ledger, conductor.rollout)
    decision = rollout.decision(number)
    while decision is None:
        if (why := rollouts.overtaken(ledger, rollout)) is not None or number not in rollout.shares:
            return RolloutDecision("hold", why or "it was given no share")
        found = _look(conductor, rollout, number)
        conductor.news.tell(rollout, watch, found)
        if found.move == "hold":
            conductor.pause(LOOK_SECONDS)
            continue
        without = watch.without_data
        if found.move == "complete" and without:
            found = replace(found, reason=f"{found.reason}; nothing to compare for {' and '.join(without)}")
        verdict = watch.test.verdict().as_dict() | {"without_data": without}
        entry = ledger.append(rollouts.decided(rollout, number, found, watch.until, verdict, run.id))[0][0]
        # Of two that conduct it by mistake, the first decides for both.
        decision = RolloutDecision(entry.detail["move"], entry.detail["reason"])
        get_logger().info(f"decided: {decision.move}", step=number + 1, reason=decision.reason)
    return decision


def _look(conductor: Conductor, rollout: Rollout, number: int) -> RolloutDecision:
    try:
        conductor.watch.enter(rollout, number)
        return conductor.watch.look(conductor.clock())
    except DataError as error:
        get_logger().warning("a part of the inference log is left out", error=str(error))
        return RolloutDecision("hold", "the inference log is damaged")


@step
def conclude(run: Run, conductor: Conductor, decision: RolloutDecision) -> dict[str, Any]:
    """Let the canary serve, or take it off; the record of how the rollout ended is also the flow's result."""
    rollout = rollouts.again(run.ledger, conductor.rollout)
    ended = rollout.ended
    if ended is None or rollouts.has_share(run.ledger, rollout):
        with holding(run, "serving") as held:
            outcome, reasons, *facts = _end(held, rollout, decision)
            facts.append(rollouts.ending(rollout, outcome, run.id, reasons))
            ended = run.ledger.append(*facts, token=held.proof)[-1][0]
    conductor.news.end(rollout, ended)
    get_logger().info(f"the rollout has ended: {ended.detail['outcome']}", version=rollout.version)
    return {"pipeline": rollout.pipeline, "version": rollout.version, **ended.detail}


def _end(run: Run, rollout: Rollout, decision: RolloutDecision) -> tuple[Any, ...]:
    """Change what is to be changed; the outcome, its reasons, and what else is to be recorded with it."""
    why = rollouts.overtaken(run.ledger, rollout)
    if decision.move == "complete" and (why is None or _serves(run, rollout)):
        detail = {**rollout.promotion, "rollout": rollout.id}
        let_serve(run, _canary(run, rollout), detail, once=rollout.once("promoted"))
        return "promoted", [decision.reason]
    _take_off(run, rollout)
    if decision.move != "roll back":
        return "superseded", [why or decision.reason]
    refusal = {"package": rollout.package, "champion": rollout.champion, "reasons": [decision.reason]}
    detail = refusal | {"rollout": rollout.id}
    return (
        "rejected",
        [decision.reason],
        Fact(rollout.pipeline, REFUSED, rollout.version, detail, run.id, rollout.once("off")),
    )


def _serves(run: Run, rollout: Rollout) -> bool:
    """Whether it was this rollout that has let the canary serve: what is left is to say so."""
    now = run.ledger.serving(rollout.pipeline)
    because = None if now is None else run.ledger.entry(int(now.detail["because"]))
    return because is not None and because.kind == PROMOTED and because.detail.get("rollout") == rollout.id


def _take_off(run: Run, rollout: Rollout) -> None:
    """End the canary's draw, and nothing else that answers."""
    if rollouts.has_share(run.ledger, rollout):
        nothing = TrafficChange(canary=VersionShare(rollout.version, 0.0))
        change_traffic(run, nothing, run.id, once=rollout.once("off"))


def _canary(run: Run, rollout: Rollout) -> Version:
    version = approved_version(run, rollout.version)
    if version.package_digest != rollout.package:
        raise DigestError(
            f"version {version.version} of '{rollout.pipeline}' is not the package that was rolled out",
            got=version.package_digest,
            allowed=rollout.package,
            next="somebody changed the registry's tags: put them right, or train again",
        )
    return version
