"""Changing by which rules several versions answer."""

from __future__ import annotations

from typing import Any

from millrace.errors import ConfigError, ConflictError, DigestError
from millrace.ledger import TRAFFIC
from millrace.traffic_rules import TrafficChange, TrafficRules
from ray_jobs.serve.deploy import Deployed
from ray_jobs.serve.plan import TrafficPlan
from tasks.carry_out import carry_out
from tasks.champion import registered, target_of, traffic_plan
from tasks.registry import Registry, Version
from tasks.rollout import approved_version, serve_plan
from tasks.run import Run, step
from tasks.traffic_requests import TrafficRequest


def perform(request: TrafficRequest) -> dict[str, Any]:
    """Bring the request to its end; errors as in `carry_out`."""

    def work(run: Run) -> dict[str, Any]:
        deployed = change_traffic(run, request.change, request.requested_by)
        seconds = {"seconds": deployed.seconds, "switch_seconds": deployed.switch_seconds}
        return {"version": deployed.version, "url": deployed.url, **seconds}

    return carry_out(request, "traffic", work)


@step
def change_traffic(
    run: Run, change: TrafficChange, requested_by: str, *, once: str | None = None, only_while: int | None = None
) -> Deployed:
    """Have versions answer beside the one that serves, by its rules of now and `change`.

    A run that changes them more than once gives each change a name of its own (`once`). With `only_while`, the number
    of a `serving` entry, only while that entry is the newest.

    Raises:
        ConflictError: nothing serves, or something else serves than `only_while` names.
        ConfigError: the change makes no sense: shares that are no division, a version that mirrors itself. Or the
            pipeline's models are not served.
        UnknownNameError: a version is not registered.
        ApprovalError: promotions are approved, and a version never was that is to answer somebody.
        ArtifactError, DigestError, PackageError: a version cannot be served; what answers goes on.
    """
    run.pipeline.spec.require_served()
    name = run.pipeline.name
    now = run.ledger.serving(name)
    if now is None:
        raise ConflictError(f"pipeline '{name}' serves no version", next=f"train one with `millrace run {name}`")
    if only_while not in (None, now.sequence):
        raise ConflictError(
            f"the traffic of '{name}' is not changed: version {now.subject} serves by now",
            got=f"entry {now.sequence} of the ledger",
            allowed=f"entry {only_while}",
            next="nothing: somebody else was faster",
        )
    champion = registered(run, now)
    once = once or run.id
    if any(entry.detail["once"] == once for entry in run.ledger.entries(name, TRAFFIC)):
        # An earlier life has decided; what is said by now, by it or by somebody later, is in force.
        return serve_plan(run, traffic_plan(run, champion))
    record = run.ledger.traffic(name)
    rules = change.of(TrafficRules.only(now.subject) if record is None else record.rules)
    others = _others(run, champion, rules)
    targets = [target_of(run, other) for other in others.values()]
    deployed = serve_plan(run, TrafficPlan.of(target_of(run, champion), targets, rules))
    packages = {number: version.package_digest for number, version in others.items()}
    run.ledger.divide(name, now.subject, rules, packages, actor=requested_by, token=run.proof, once=once)
    return deployed


def _others(run: Run, champion: Version, rules: TrafficRules) -> dict[str, Version]:
    """The versions beside the champion, by number; the shadow, which answers nobody, needs no approval."""
    found = {number: approved_version(run, number) for number in sorted(rules.answering - {champion.version})}
    if rules.shadow is not None:
        number = rules.shadow.version
        if number == champion.version:
            raise ConfigError(
                f"version {number} serves: asked again, it would answer the same",
                next="mirror to another version, with --shadow VERSION=SHARE",
            )
        shadow = found.setdefault(number, Registry(run.settings).version(run.pipeline.name, number))
        if (package := run.store.get(shadow.package_key)).digest != shadow.package_digest:
            raise DigestError(
                f"package {shadow.package_key} is not the one registered as version {number}",
                got=package.digest,
                allowed=shadow.package_digest,
                next="register the package again",
            )
    return found
