"""Which version serves: promotion, refusal, rollback, and the record of each.

The order is the same everywhere: traffic first, as it may still fail; then the ledger, in one transaction with the
proof that the slot is held; then MLflow's alias. The ledger is the truth: whoever is killed on the way goes on and does
the rest, and what a zombie changes outside of the ledger the reconciler sets right.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from millrace import rollouts
from millrace.approvals import requests
from millrace.errors import ApprovalError, ConflictError
from millrace.gate import Evaluation
from millrace.ledger import Entry, Fact
from millrace.traffic_rules import TrafficRules
from ray_jobs.cluster import connect
from ray_jobs.serve.deploy import Deployed, code_version, deploy
from ray_jobs.serve.plan import TrafficPlan
from tasks import artifacts
from tasks.approval import use_approval
from tasks.champion import registered, serving, target_of, traffic_plan
from tasks.champion_pile import served_before
from tasks.endpoint import description, is_by_ledger
from tasks.registry import CHAMPION, Registry, Version
from tasks.run import Run, step
from tasks.run_kinds import PROMOTED
from tasks.slots import holding

REFUSED = "refused"
ROLLING_OUT = "rolling out"
ROLLED_BACK = "rolled_back"


def settle(run: Run, version: Version, evaluation: Evaluation) -> str | None:
    """Let `version` serve if its verdict says so, or begin its rollout where the spec asks for one. None when another
    version serves by now than it was judged against: then it must be judged again. What an earlier life of the run
    promoted, and somebody replaced since, stays replaced."""
    with holding(run, "serving") as held:
        promoted = held.ledger.entries(held.pipeline.name, PROMOTED, subject=version.version)
        if any(entry.actor == held.id and _is_replaced(held, entry) for entry in promoted):
            return PROMOTED
        champion = serving(held)
        if (champion and champion.version) not in (evaluation.champion_version, version.version):
            return None
        if not evaluation.verdict.passed:
            refuse_version(held, version, evaluation)
            return REFUSED
        if champion is not None and (outcome := begin_rollout(held, version, evaluation)) is not None:
            return outcome
        promote_version(held, version, evaluation)
        return PROMOTED


@step
def promote_version(run: Run, version: Version, evaluation: Evaluation) -> Deployed:
    """Let `version` serve. Repeated after a kill, it comes to the same end: each part finds what is done.

    Raises:
        ApprovalError: the spec asks for an approval, and this package has none that counts now.
    """
    approval = use_approval(run, version, evaluation)
    return let_serve(run, version, why_promoted(run, version, evaluation, approval), once=f"{run.id}:{version.version}")


@step
def begin_rollout(run: Run, version: Version, evaluation: Evaluation) -> str | None:
    """Begin the rollout of `version`, or find it; the reconciler starts its flow.

    Returns:
        None where nothing is to be rolled out; else the training's outcome: `ROLLING_OUT`, or how an earlier rollout of
        this version beside this champion ended.

    Raises:
        ApprovalError: the spec asks for an approval, and this package has none that counts now.
    """
    known = rollouts.newest(run.ledger, run.pipeline.name, version.version)
    if known is not None and known.begun.actor == run.id:
        return ROLLING_OUT
    spec, now = run.pipeline.spec.rollout, run.ledger.serving(run.pipeline.name)
    if spec is None or now is None or now.subject == version.version:
        return None
    # A canary answers callers too: it is approved before it does, and for all that follows.
    promotion = why_promoted(run, version, evaluation, use_approval(run, version, evaluation))
    begun = rollouts.begin(run.ledger, version.version, now, spec, promotion, run.proof)
    return begun.outcome or ROLLING_OUT


def why_promoted(run: Run, version: Version, evaluation: Evaluation, approval: str | None) -> dict[str, Any]:
    """What the ledger keeps of why `version` was promoted."""
    metric = run.pipeline.spec.evaluation.metric
    return {
        "package": version.package_digest,
        "metric": metric,
        "observed": evaluation.metrics["challenger"][metric],
        "window": evaluation.window.as_dict(),
        "champion_before": evaluation.champion_version,
        "reasons": list(evaluation.verdict.reasons),
        "approval": approval,
    }


def let_serve(run: Run, version: Version, why: Mapping[str, Any], once: str) -> Deployed:
    """Let `version` serve; `once` names the promotion, however often it is repeated."""
    # Alone, unless it is what serves already: then nothing of its traffic changes.
    deployed = serve_plan(run, traffic_plan(run, version))
    decision = run.ledger.decide(
        run.pipeline.name, PROMOTED, version.version, why, actor=run.id, token=run.proof, once=once
    )
    make_champion(run, version, decision)
    artifacts.rollout(
        run.pipeline.name,
        version.version,
        {
            "replaces": why["champion_before"] or "nothing",
            "answers at": f"{deployed.url}/predict",
            "swap took": f"{deployed.seconds:.1f} s",
            "in the registry": Registry(run.settings).url(version),
            "because": "; ".join(why["reasons"]),
        },
    )
    return deployed


def serve_plan(run: Run, plan: TrafficPlan) -> Deployed:
    """Have the versions of `plan` answer; a replica that was told of a later token refuses."""
    connect(run.settings)
    return deploy(run.settings, run.pipeline.name, plan, run.prove)


def make_champion(run: Run, version: Version, decision: Entry) -> None:
    """Record that `version` serves, then name it champion."""
    run.ledger.serve(run.pipeline.name, version.version, version.package_digest, because=decision, token=run.proof)
    run.prove()
    Registry(run.settings).set_alias(version, CHAMPION)


@step
def serve_again(run: Run) -> Deployed | None:
    """Bring traffic and alias to what the ledger says serves: after a restart of the cluster, or a zombie's change."""
    with holding(run, "serving") as held:
        champion = serving(held)
        if champion is None:
            return None
        deployed = serve_plan(held, traffic_plan(held, champion))
        if CHAMPION not in champion.aliases:
            held.prove()
            Registry(held.settings).set_alias(champion, CHAMPION)
        return deployed


def is_as_recorded(run: Run) -> bool:
    """Whether the endpoint answers with the versions that the ledger says, by the code of now, and the one that serves
    is the champion in the registry too. Joining the cluster only to find that out takes a second; this takes none."""
    entry = run.ledger.serving(run.pipeline.name)
    if entry is None:
        return False
    found = description(run.settings, run.pipeline.name)
    return (
        found is not None
        and is_by_ledger(found, entry, run.ledger.traffic(run.pipeline.name))
        and found["code"] == code_version(run.pipeline, run.settings)
        and CHAMPION in registered(run, entry).aliases
    )


@step
def refuse_version(run: Run, version: Version, evaluation: Evaluation) -> None:
    """Keep why the challenger does not serve."""
    run.ledger.decide(
        run.pipeline.name,
        REFUSED,
        version.version,
        {
            "package": version.package_digest,
            "window": evaluation.window.as_dict(),
            "champion": evaluation.champion_version,
            "reasons": list(evaluation.verdict.reasons),
        },
        actor=run.id,
        token=run.proof,
        once=f"{run.id}:{version.version}",
    )


@step
def roll_back(
    run: Run, to_version: str | None, requested_by: str, *, only_while: int | None = None, reason: str = ""
) -> Deployed:
    """Let the version that served before serve again, or `to_version`, alone: what answered beside it ends.

    With `only_while`, the number of a `serving` entry, only while that entry is the newest: who asked for it saw what
    serves by that entry and nothing else.

    Raises:
        ConflictError: nothing serves, nothing served before, or something else serves than `only_while` names.
        UnknownNameError: `to_version` is not registered.
        ConfigError: `requested_by` cannot be recorded, or the pipeline's models are not served.
        ApprovalError: promotions are approved, and `to_version` never was.
        ArtifactError, DigestError, PackageError: it cannot be served; what serves goes on.
    """
    run.pipeline.spec.require_served()
    name = run.pipeline.name
    # What serves may be damaged: it is a reason to roll back, so neither its package nor its registration is read.
    now = run.ledger.serving(name)
    if now is None:
        raise ConflictError(f"pipeline '{name}' serves no version", next=f"train one with `millrace run {name}`")
    done = next(iter(run.ledger.entries(name, ROLLED_BACK, subject=run.id)), None)
    if done is not None and _is_replaced(run, done):
        return serve_plan(run, traffic_plan(run, registered(run, now)))
    if done is not None:
        to_version = str(done.detail["to"])
    elif only_while not in (None, now.sequence):
        raise ConflictError(
            f"nothing is rolled back: version {now.subject} of '{name}' serves by now",
            got=f"entry {now.sequence} of the ledger",
            allowed=f"entry {only_while}",
            next="nothing: somebody else was faster",
        )
    version = _version_before(run, now.subject) if to_version is None else approved_version(run, to_version)
    detail = {"from": now.subject, "to": version.version, "requested_by": requested_by, "reason": reason}
    # Made before any traffic moves: the ledger takes no name of any length.
    decided = Fact(name, ROLLED_BACK, run.id, detail, requested_by, once=run.id)
    deployed = serve_plan(run, TrafficPlan.alone(target_of(run, version)))
    if version.version != now.subject or done is not None:
        decision, _ = run.ledger.append(decided, token=run.proof)[0]
        make_champion(run, version, decision)
    elif run.ledger.traffic(name) is not None:
        alone = TrafficRules.only(version.version)
        run.ledger.divide(name, version.version, alone, {}, actor=requested_by, token=run.proof)
    return deployed


def approved_version(run: Run, number: str) -> Version:
    """A registered version that may answer somebody.

    Raises:
        UnknownNameError: it is not registered.
        ApprovalError: promotions are approved, and it never was.
    """
    version = Registry(run.settings).version(run.pipeline.name, number)
    if run.pipeline.spec.approvals.promote and not (_has_served(run, version) or _is_approved_canary(run, version)):
        raise ApprovalError(
            f"version {number} of '{run.pipeline.name}' has never served: nobody has approved it",
            next=f"choose one that has, from `millrace versions {run.pipeline.name}`",
        )
    return version


def _is_replaced(run: Run, decision: Entry) -> bool:
    """Whether somebody let another version serve since `decision` was taken."""
    now = run.ledger.serving(run.pipeline.name)
    return now is not None and now.sequence > decision.sequence and now.detail.get("because") != decision.sequence


def _has_served(run: Run, version: Version) -> bool:
    served = run.ledger.entries(run.pipeline.name, "serving", subject=version.version)
    return any(entry.detail["package"] == version.package_digest for entry in served)


def _is_approved_canary(run: Run, version: Version) -> bool:
    """Whether its rollout goes on, and began with an approval of this very package."""
    rollout = rollouts.newest(run.ledger, run.pipeline.name, version.version)
    if rollout is None or rollout.ended is not None or rollout.promotion["approval"] is None:
        return False
    asked = requests.find(run.ledger, rollout.promotion["approval"])
    standing = requests.standing_of(run.ledger, asked, datetime.now(UTC))
    return asked.subject == version.package_digest and standing.approves(rollout.begun.actor)


def _version_before(run: Run, serving_now: str) -> Version:
    before = served_before(run.ledger, run.pipeline.name)
    if before is None:
        raise ConflictError(
            f"pipeline '{run.pipeline.name}' has served no version before {serving_now}",
            next=f"choose one with --to, from `millrace versions {run.pipeline.name}`",
        )
    return registered(run, before)
