"""Which versions serve, as the ledger has it. MLflow's alias follows the ledger; nothing is decided by an alias."""

from __future__ import annotations

from millrace.errors import ConflictError, DigestError
from millrace.ledger import Entry
from ray_jobs.serve.plan import TrafficPlan
from ray_jobs.serve.versions import Target
from tasks.registry import Registry, Version
from tasks.run import Run
from tasks.run_kinds import PROMOTED


def serving(run: Run) -> Version | None:
    """The version that the ledger says serves, or None before the first.

    Raises:
        DigestError: the registry names another package for it than was promoted.
    """
    entry = run.ledger.serving(run.pipeline.name)
    return None if entry is None else registered(run, entry)


def version_to_beat(run: Run) -> Version | None:
    """The version to beat: the one that serves. Of models that are not served, the one that was promoted last.

    Raises:
        DigestError: the registry names another package for it than was promoted.
    """
    if run.pipeline.spec.is_served:
        return serving(run)
    entry = run.ledger.newest(run.pipeline.name, PROMOTED)
    return None if entry is None else registered(run, entry)


def champion_of(run: Run) -> Version:
    """The version that serves.

    Raises:
        ConflictError: none does.
    """
    champion = serving(run)
    if champion is None:
        raise ConflictError(
            f"pipeline '{run.pipeline.name}' serves no version",
            next=f"train one with `millrace run {run.pipeline.name}`",
        )
    return champion


def registered(run: Run, entry: Entry) -> Version:
    """The registered version of an entry by which it serves, or was promoted.

    Raises:
        DigestError: the registry names another package for it than the ledger.
    """
    return _promised(run, entry.subject, entry.detail["package"])


def traffic_plan(run: Run, champion: Version) -> TrafficPlan:
    """What answers by the ledger while `champion` serves: with the versions beside it, if it is what serves now.

    Raises:
        DigestError: the registry names another package for one of them than the ledger.
        UnknownNameError: one of them is gone from the registry.
    """
    now, record = run.ledger.serving(run.pipeline.name), run.ledger.traffic(run.pipeline.name)
    if record is None or now is None or now.subject != champion.version:
        return TrafficPlan.alone(target_of(run, champion))
    answering = record.rules.answering - {champion.version}
    others = [_promised(run, version, record.packages[version]) for version in sorted(answering)]
    return TrafficPlan.of(target_of(run, champion), [target_of(run, other) for other in others], record.rules)


def target_of(run: Run, version: Version) -> Target:
    """The version as a replica knows it, under the token of the run."""
    return Target(version.version, version.package_key, version.package_digest, run.proof.number)


def _promised(run: Run, number: str, promised: str) -> Version:
    version = Registry(run.settings).version(run.pipeline.name, number)
    if promised and version.package_digest != promised:
        raise DigestError(
            f"version {version.version} of '{version.pipeline}' is not the package that was promoted",
            got=version.package_digest,
            allowed=promised,
            next="somebody changed the registry's tags: put them right, or roll back to another version",
        )
    return version
