"""Which version serves: promotion, refusal, rollback, and the record of each."""

from __future__ import annotations

from millrace.errors import ConflictError
from millrace.gate import Evaluation
from millrace.ledger import Decision
from ray_jobs.cluster import connect
from ray_jobs.serve.deploy import Deployed, deploy
from tasks import artifacts
from tasks.registry import CHAMPION, Registry, Version
from tasks.run import Run, step

PROMOTED = "promoted"
REFUSED = "refused"
ROLLED_BACK = "rolled_back"


@step
def promote_version(run: Run, version: Version, evaluation: Evaluation) -> Deployed:
    """Let `version` serve. Repeated after a kill, it comes to the same end: each part finds what is done."""
    deployed = serve_version(run, version)
    rule = run.pipeline.spec.evaluation
    run.ledger.decide(
        run.pipeline.name,
        PROMOTED,
        version.version,
        {
            "package": version.package_digest,
            "metric": rule.metric,
            "observed": evaluation.metrics["challenger"][rule.metric],
            "window": evaluation.window.as_dict(),
            "champion_before": evaluation.champion_version,
            "reasons": list(evaluation.verdict.reasons),
        },
    )
    artifacts.rollout(
        run.pipeline.name,
        version.version,
        {
            "replaces": evaluation.champion_version or "nothing",
            "answers at": f"{deployed.url}/predict",
            "swap took": f"{deployed.seconds:.1f} s",
            "in the registry": Registry(run.settings).url(version),
            "verdict": evaluation.verdict.summary,
        },
    )
    return deployed


def serve_version(run: Run, version: Version) -> Deployed:
    """Put all traffic on `version`, then name it champion."""
    connect(run.settings)
    deployed = deploy(run.settings, run.pipeline.name, version.version, version.package_key, version.package_digest)
    Registry(run.settings).set_alias(version, CHAMPION)
    return deployed


@step
def serve_again(run: Run, version: Version) -> Deployed:
    """Make sure that the champion answers: after a restart of the cluster, or a kill between two steps."""
    return serve_version(run, version)


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
    )


def served_before(decisions: list[Decision], current: str) -> str | None:
    """The version that served before `current`, following promotions and rollbacks in order."""
    stack: list[str] = []
    for decision in decisions:
        if decision.kind == PROMOTED and (not stack or stack[-1] != decision.subject):
            stack.append(decision.subject)
        elif decision.kind == ROLLED_BACK and len(stack) > 1:
            stack.pop()
    below = stack[: stack.index(current)] if current in stack else stack
    return below[-1] if below else None


@step
def roll_back(run: Run, to_version: str | None) -> Deployed:
    """Let the version that served before serve again, or `to_version`.

    Raises:
        ConflictError: nothing serves, or nothing served before.
        UnknownNameError: `to_version` is not registered.
    """
    registry = Registry(run.settings)
    name = run.pipeline.name
    champion = registry.by_alias(name, CHAMPION)
    if champion is None:
        raise ConflictError(f"pipeline '{name}' serves no version", next=f"train one with `millrace run {name}`")
    target = to_version or served_before(run.ledger.decisions(name), champion.version)
    if target is None:
        raise ConflictError(
            f"pipeline '{name}' has served no version before {champion.version}",
            next=f"choose one with --to, from `millrace versions {name}`",
        )
    version = registry.version(name, target)
    deployed = serve_version(run, version)
    if version.version != champion.version:
        run.ledger.decide(
            name, ROLLED_BACK, version.version, {"from": champion.version, "to": version.version, "run": run.id}
        )
    return deployed
